"""Fonts are proven by what they draw."""

import shutil
from pathlib import Path

import pytest

from tunestudy.config import fonts as listed
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.synth import SynthSettings
from tunestudy.data.synth import fonts
from tunestudy.data.synth.fonts import Fonts, draws, find_fonts
from tunestudy.data.synth.sample import sample

KOREAN = SynthSettings(kind="chart", count=1, language="ko")


@pytest.fixture
def latin() -> Path:
    """A font of this machine without Hangul."""
    found = next((path for path in listed.candidates("en") if draws(path, "en") and not draws(path, "ko")), None)
    if found is None:
        pytest.skip("every font of this machine has Hangul")
    return found


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without fonts and without fontconfig."""
    monkeypatch.setattr(listed, "FOLDERS", (str(tmp_path / "empty"),))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    caches = (listed._installed, listed._known_to_fontconfig, fonts.system_font)
    for cached in caches:
        cached.cache_clear()
    monkeypatch.setattr(fonts, "system_font", fonts.system_font.__wrapped__)
    yield
    for cached in caches:
        cached.cache_clear()


def test_a_font_with_boxes_for_hangul_does_not_draw_it(latin: Path, hangul: Path) -> None:
    assert draws(latin, "en") and not draws(latin, "ko")
    assert draws(hangul, "ko") and draws(hangul, "en")


def test_a_file_that_is_no_font(tmp_path: Path) -> None:
    (tmp_path / "no.ttf").write_bytes(b"not a font")
    settings = KOREAN.model_copy(update={"font": "no.ttf", "language": "en"})
    with pytest.raises(StudyError, match="cannot be read as a font"):
        find_fonts(settings, tmp_path)


def test_a_named_font_without_hangul(latin: Path) -> None:
    with pytest.raises(StudyError, match="has no Hangul") as told:
        find_fonts(KOREAN.model_copy(update={"font": str(latin)}), Path())
    assert told.value.exit_code == Exit.PREFLIGHT_REFUSED


@pytest.mark.usefixtures("no_fonts")
def test_without_any_font_korean_is_refused_and_english_is_drawn() -> None:
    with pytest.raises(StudyError, match="apt-get install fonts-nanum"):
        find_fonts(KOREAN, Path())
    english = KOREAN.model_copy(update={"language": "en"})
    found = find_fonts(english, Path())
    assert found == Fonts() and found.digest("en") == "pillow"
    texts = sample(english, 0, found).truth["texts"]
    assert texts


@pytest.mark.usefixtures("no_fonts")
def test_shapes_need_no_font() -> None:
    assert find_fonts(SynthSettings(kind="shapes", count=1, language="ko"), Path()) == Fonts()


def test_hangul_is_drawn_and_not_boxes(hangul: Path) -> None:
    settings = SynthSettings(kind="document", count=1, language="ko", tasks=("line",), image_size=112)
    pictures = set()
    for index in range(6):
        one = sample(settings, index)
        left, top, right, bottom = one.truth["texts"][0]["box"]
        pictures.add(one.image.crop((left, top, min(right, left + 9), bottom)).tobytes())
    assert len(pictures) > 3, "different syllables look alike"
