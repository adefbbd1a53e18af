"""gallery.html and the sections of evaluations in a real browser: silent, filtering, readable at every width."""

from functools import partial
from pathlib import Path

import pytest
from evaluations import EVIL, make_evaluated
from playwright.sync_api import Browser
from studies import Recipe
from test_browser import CONTRAST
from test_browser import Opened as AnyPage

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report

pytestmark = [pytest.mark.browser, pytest.mark.slow]


Opened = partial(AnyPage, ready="main")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index.html", "gallery.html"])
def test_silent_self_contained_and_readable(
    browser: Browser, vision: StudyDir, name: str, width: int, scheme: str
) -> None:
    with Opened(browser, vision, name, width=width, scheme=scheme) as opened:
        page = opened.page
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert page.evaluate(CONTRAST) == []
        assert opened.said == [] and {url.split(":")[0] for url in opened.asked} <= {"file", "data"}
        assert sum(url.startswith("file") for url in opened.asked) == 1


def test_the_table_shows_all_columns_at_desktop_width(browser: Browser, vision: StudyDir) -> None:
    with Opened(browser, vision, "index.html") as opened:
        hidden = opened.page.evaluate(
            "[...document.querySelectorAll('.benchmark > .scroll')].filter((n) => n.scrollWidth > n.clientWidth).length"
        )
        assert hidden == 0
        assert opened.page.locator("#checkpoints canvas").count() == 3
        assert opened.page.locator(".against li").count() == 3
        assert opened.page.locator("svg.bars").count() == 4


def test_filters_show_what_they_say(browser: Browser, vision: StudyDir) -> None:
    with Opened(browser, vision, "gallery.html") as opened:
        page = opened.page
        cards, answers = page.locator(".card:visible"), page.locator(".answers li:visible")
        first = cards.count()
        assert first == page.locator('.card[data-benchmark="0"]').count() < page.locator(".card").count()
        page.select_option("[name=benchmark]", "")
        assert cards.count() == page.locator(".card").count()
        page.select_option("[name=variant]", label="full")
        page.select_option("[name=verdict]", "wrong")
        assert (
            answers.count() == cards.count() == page.locator('li[data-variant="1"][data-verdict="wrong"]').count() > 0
        )
        page.select_option("[name=change]", "lost")
        lost = page.locator('li[data-variant="1"][data-verdict="wrong"][data-change="lost"]').count()
        assert answers.count() == lost > 0
        assert page.locator("#shown").inner_text() == f"{lost} of {page.locator('.card').count()} samples"
        page.select_option("[name=change]", "gained")
        assert cards.count() == 0 and page.get_by_text("No sample is like this.").is_visible()


def test_categories_follow_the_benchmark(browser: Browser, vision: StudyDir) -> None:
    with Opened(browser, vision, "gallery.html") as opened:
        page = opened.page
        page.select_option("[name=benchmark]", label="mmbench_ko")
        page.select_option("[name=category]", label="category: 행동 추론")
        shown = page.locator(".card:visible")
        assert shown.count() > 0 and shown.count() == shown.filter(has_text="행동 추론").count()
        page.select_option("[name=benchmark]", label="docvqa")
        assert page.input_value("[name=category]") == "" and page.locator(".card:visible").count() > 20
        offered = page.locator("[name=category] option:not([hidden])").all_inner_texts()
        assert len(offered) == 5 and all("question_type" in text for text in offered[1:])


def test_a_link_to_a_hidden_sample_shows_it(browser: Browser, vision: StudyDir) -> None:
    with Opened(browser, vision, "gallery.html") as opened:
        link = opened.page.locator("#changed a[href^='#s2-']").first
        target = opened.page.locator(f"{link.get_attribute('href')}")
        assert not target.is_visible()
        link.click()
        assert target.is_visible() and opened.said == []


def test_images_are_drawn_and_text_of_strangers_is_text(browser: Browser, tmp_path: Path) -> None:
    study_dir = make_evaluated(tmp_path, Recipe(benchmarks=("chartqa",), seeds=(1,)), checkpoints=False)
    for path in study_dir.jobs.glob("*/eval/chartqa.predictions.jsonl"):
        path.write_text(path.read_text().replace("human", "<b>h</b>").replace("How many", "<script>alert(1)</script>"))
    for path in study_dir.jobs.glob("*/eval/chartqa.json"):
        path.write_text(path.read_text().replace("ChartQA", "<i>ChartQA</i>").replace("human", "<b>h</b>"))
    build_report(study_dir)
    with Opened(browser, study_dir, "gallery.html", width=390) as opened:
        drawn = opened.page.evaluate("[...document.images].filter((i) => i.naturalWidth > 0 && i.width > 50).length")
        assert drawn == opened.page.locator(".card img").count() > 20
        assert opened.page.locator(".card b, .card script").count() == 0
        assert "vision" not in opened.page.title() and opened.page.title().startswith("digits-rotation")
        assert opened.page.get_by_text(EVIL).count() <= 1 and opened.said == []
    with Opened(browser, study_dir, "index.html") as opened:
        assert opened.page.locator("h3 i, .breakdown b").count() == 0 and opened.said == []


def test_without_javascript_every_sample_is_there(browser: Browser, vision: StudyDir) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((vision.report / "gallery.html").as_uri())
    assert page.locator(".card:visible").count() == page.locator(".card").count() > 100
    assert not page.locator("#filters").is_visible()
    context.close()
