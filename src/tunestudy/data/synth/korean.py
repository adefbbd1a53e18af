"""Korean particles, whose form depends on how the word before them ends."""

FIRST_SYLLABLE, LAST_SYLLABLE = 0xAC00, 0xD7A3
FINALS = 28
"""A Hangul syllable is 0xAC00 + (initial × 21 + vowel) × 28 + final (Unicode standard, chapter 3.12); 0: no final."""
FINAL_RIEUL = 8

DIGIT_FINALS = {"0": 21, "1": 8, "2": 0, "3": 16, "4": 0, "5": 0, "6": 1, "7": 8, "8": 8, "9": 0}
"""The final consonant of each digit read aloud (영 일 이 삼 사 오 육 칠 팔 구); tens and beyond end in one, too."""

PARTICLES = {"은": ("은", "는"), "이": ("이", "가"), "을": ("을", "를"), "과": ("과", "와"), "으로": ("으로", "로")}
"""The form after a final consonant, which names the particle → (that form, the one after a vowel)."""


class Word(str):
    """A word that a template may give a particle: `"{fruit:은}".format(fruit=Word("사과"))` is `사과는`."""

    __slots__ = ()

    def __format__(self, particle: str) -> str:
        return f"{self!s}{form_of(particle, self)}" if particle else str(self)


def form_of(particle: str, word: str) -> str:
    """The form of a particle after a word that ends in Hangul, a digit or a letter (read as ending in a vowel)."""
    after_consonant, after_vowel = PARTICLES[particle]
    final = final_of(word)
    if particle == "으로" and final == FINAL_RIEUL:
        return after_vowel
    return after_consonant if final else after_vowel


def final_of(word: str) -> int:
    """Number of the last syllable's final consonant, 0 for none; quotation marks are not read aloud."""
    last = word.rstrip("'")[-1]
    if FIRST_SYLLABLE <= ord(last) <= LAST_SYLLABLE:
        return (ord(last) - FIRST_SYLLABLE) % FINALS
    return DIGIT_FINALS.get(last, 0)
