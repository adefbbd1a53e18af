"""Did you mean …?"""

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known word that looks most like `word`, or None when none does. cutoff: from 0, anything, to 1, equal."""
    import difflib  # only mistakes pay for it

    by_folded = {_folded(name): name for name in known}
    close = difflib.get_close_matches(_folded(word), by_folded, n=1, cutoff=cutoff)
    return by_folded[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, else all of them when they are few."""
    known = list(known)
    close = nearest(word, known)
    if close:
        return f"did you mean `{close}`?"
    if not known:
        return "there are none"
    return f"known are: {', '.join(known)}" if len(known) <= 12 else f"known are {', '.join(known[:12])}, …"


def _folded(word: str) -> str:
    return word.lower().replace("-", "_")
