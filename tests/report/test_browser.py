"""index.html in a real browser, opened from disk: silent, asking for nothing, readable at every width and scheme."""

import csv
import io
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from studies import Recipe, make_study

from tunestudy.records.layout import StudyDir
from tunestudy.report.build import build_report
from tunestudy.report.format import p_value, sig, signed

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const s = c / 255; return s <= 0.03928 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour.startsWith("rgb") && (rgb(colour)[3] ?? 1) > 0.5) return rgb(colour);
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !node.checkVisibility()) continue;
    if (node.closest("script, style, svg, .skip")) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(node).color)), luminance(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([walker.currentNode.data.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return poor;
}"""

CUT = """() => [...document.querySelectorAll(".scroll")].filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => [box.getAttribute("aria-label"), box.scrollWidth, box.clientWidth])"""


class Opened:
    """A page with all that it said and asked for."""

    def __init__(
        self,
        browser: Browser,
        study_dir: StudyDir,
        name: str = "index.html",
        *,
        width: int = 1280,
        scheme: str = "light",
        ready: str = "canvas",
    ) -> None:
        """ready: what must be there before anything is looked at."""
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto((study_dir.report / name).as_uri())
        self.page.wait_for_selector(ready)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self.page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["finished", "half", "sparse", "merging"])
def test_silent_self_contained_and_readable(
    browser: Browser, request: pytest.FixtureRequest, which: str, width: int, scheme: str
) -> None:
    with Opened(browser, request.getfixturevalue(which), width=width, scheme=scheme) as opened:
        page = opened.page
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
        assert page.locator("canvas").count() == (5 if which == "sparse" else 4)
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "opened details scroll sideways"
        assert width < 1280 or page.evaluate(CUT) == [], "tables that are wider than the page"
        assert page.evaluate(CONTRAST) == []
        page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        page.wait_for_timeout(50)
        assert opened.said == []
        assert [url.split(":")[0] for url in opened.asked] == ["file"]


def test_the_table_says_what_the_csv_says(browser: Browser, half: StudyDir) -> None:
    rows = list(csv.DictReader(io.StringIO((half.report / "results.csv").read_text())))
    assert len(rows) == 8
    with Opened(browser, half) as opened:
        for row in rows:
            line = opened.page.locator(f'[data-benchmark="{row["benchmark"]}"] tr[data-variant="{row["variant"]}"]')
            cells = {name: line.locator(f'[data-column="{name}"]').inner_text() for name in ("mean", "n", "delta", "p")}
            expected = sig(float(row["mean"])) + (f" ± {sig(float(row['std']))}" if row["std"] else "")
            assert cells["mean"].split("\n")[0].strip() == expected
            assert cells["n"].split()[0] == row["n_seeds"]
            if row["delta"]:
                assert cells["delta"].split("\n")[0] == signed(float(row["delta"]))
                assert cells["p"].split("\n")[0] == p_value(float(row["p_value"]))
            points = line.locator("circle").count()
            assert points in (0, int(row["n_seeds"])), "every seed has its dot, unless the row is off the scale"


def inked(opened: Opened, chart: str) -> int:
    """How many canvas pixels of a chart are not empty."""
    return int(
        opened.page.evaluate(
            """(key) => {
              const canvas = document.querySelector(`[data-chart="${key}"] canvas`);
              const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
              let count = 0;
              for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
              return count;
            }""",
            chart,
        )
    )


def test_switches_chips_and_views_change_what_is_drawn(browser: Browser, finished: StudyDir) -> None:
    with Opened(browser, finished) as opened:
        page = opened.page
        full = inked(opened, "eval_loss")
        page.get_by_role("button", name="band").click()
        without_band = inked(opened, "eval_loss")
        page.get_by_role("button", name="every seed").click()
        means_only = inked(opened, "eval_loss")
        assert full > without_band > means_only
        chip = page.get_by_role("button", name="full", exact=True)
        chip.focus()
        page.keyboard.press("Enter")
        assert chip.get_attribute("aria-pressed") == "false"
        assert inked(opened, "eval_loss") < means_only
        page.get_by_role("button", name="log scale").click()
        page.select_option("#curve-view", "stage:base")
        names = page.locator("#curve-lines button").all_inner_texts()
        assert len(names) == 1 and "untrained" in names[0]
        for button in page.locator("#curve-lines button").all():
            button.click()
        assert page.get_by_text("every line is hidden").count() == 4
        assert opened.said == []


def test_arrow_keys_read_a_chart_out(browser: Browser, finished: StudyDir) -> None:
    with Opened(browser, finished) as opened:
        chart = opened.page.locator('[data-chart="train_loss"]')
        chart.locator(".plot").focus()
        for key in ("End", "ArrowLeft", "Home", "ArrowRight"):
            opened.page.keyboard.press(key)
        assert re.match(r"step 20 .*lora_r16 \d", chart.locator("output").text_content())


def test_every_control_and_table_is_reached_by_keyboard(browser: Browser, finished: StudyDir) -> None:
    with Opened(browser, finished) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        unnamed = page.evaluate(
            "[...document.querySelectorAll('[role=img], [role=region], [role=group], nav, svg.strip')]"
            ".filter((node) => !node.getAttribute('aria-label')).length"
        )
        assert unnamed == 0
        assert page.evaluate("[...document.querySelectorAll('.scroll')].every((node) => node.tabIndex === 0)")


def test_text_of_strangers_runs_nothing(browser: Browser, tmp_path: Path) -> None:
    evil = '</script><img src=x onerror="document.title=1"><!--'
    study_dir = make_study(tmp_path, Recipe(accuracy={"base": 0.1, evil: 0.9}, description=evil, overlap=1))
    build_report(study_dir)
    with Opened(browser, study_dir, width=390) as opened:
        assert opened.page.title().startswith("digits-rotation")
        assert opened.page.locator("img").count() == 0
        assert opened.page.locator("#curve-lines").get_by_text(evil).count() == 1
        assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert (opened.said, len(opened.asked)) == ([], 1)


def test_names_of_sixty_characters_scroll_in_boxes_of_their_own(browser: Browser, tmp_path: Path) -> None:
    long = "a_variant_whose_name_has_all_the_characters_that_names_may"[:57]
    accuracy = {f"{long}_{number:02d}": number / 10 for number in range(5)}
    study_dir = make_study(tmp_path, Recipe(accuracy=accuracy, descriptions={}))
    build_report(study_dir)
    for width in (1280, 390):
        with Opened(browser, study_dir, width=width) as opened:
            opened.page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
            assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"at {width} px"


def test_without_javascript_the_tables_still_tell(browser: Browser, finished: StudyDir) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((finished.report / "index.html").as_uri())
    assert page.locator(".headline tbody tr").count() == 4
    assert page.locator("noscript .note").is_visible()
    assert not page.locator("#curve-controls").is_visible()
    context.close()


def test_on_paper_it_is_light_and_whole(browser: Browser, finished: StudyDir) -> None:
    with Opened(browser, finished, scheme="dark") as opened:
        opened.page.emulate_media(media="print")
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.page.evaluate("getComputedStyle(document.body).color") == "rgb(28, 30, 34)"
        assert len(opened.page.pdf()) > 20_000
