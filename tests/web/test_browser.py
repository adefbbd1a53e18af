"""The live page in a real browser: readable by everyone at every width and scheme, by keyboard, and alive."""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect
from studies import make_study

from tunestudy.records.layout import StudyDir
from tunestudy.web.app import make_app
from tunestudy.web.feed import Feed
from tunestudy.web.guard import Rules
from tunestudy.web.serve import _listen

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = '</script><img src=x onerror="document.title=1"><b>'


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StudyDir, str]]:
    """A study half-way, and the address of its page."""
    from conftest import HALF

    study = make_study(tmp_path_factory.mktemp("live"), HALF)
    alert = {"t": time.time(), "event": "alert", "job": "adapt", "kind": "nan", "message": EVIL}
    (study.events / "watcher.jsonl").write_text(json.dumps(alert) + "\n")
    for job in study.jobs.iterdir():
        (job / "logs").mkdir()
        (job / "logs" / "rank-0.log").write_text(f"step 1\n{EVIL}\n")
    token = secrets.token_urlsafe(24)
    with _listen(2, "127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        feed = Feed(study.root)
        app = make_app(feed, Rules(token=token, port=port))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield study, f"http://127.0.0.1:{port}/?token={token}"
        server.should_exit = True
        thread.join()
        feed.maker.close()


@pytest.fixture
def opened(browser: Browser, live: tuple[StudyDir, str]) -> Iterator[Callable[..., Page]]:
    """`opened(width=…, scheme=…)`: the page once all of it is there; it must not have said anything by the end."""
    said: list[str] = []
    contexts = []

    def open_page(*, width: int = 1280, scheme: Any = "light") -> Page:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(live[1])
        page.wait_for_selector('html[data-curves="drawn"][data-sections="drawn"]', timeout=60_000)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark"), (1280, "dark"), (390, "light")])
def test_everyone_can_read_it(opened: Callable[..., Page], width: int, scheme: str) -> None:
    page = opened(width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    menu = page.locator(".contents ul").evaluate("(list) => [list.scrollWidth, list.clientWidth]")
    assert width == 390 or menu[0] <= menu[1], "the menu's last words are cut off"
    assert serious(page) == []
    page.locator("#grid button.is-failed").first.click()
    page.wait_for_selector("#log-text")
    assert (width == 390) != (scheme == "dark") or serious(page) == [], "in the dialog; two of four looks are enough"
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= innerWidth")


def serious(page: Page) -> list[str]:
    """What axe-core finds that keeps someone from reading."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_by_keyboard_to_a_jobs_log_and_back(opened: Callable[..., Page]) -> None:
    page = opened()
    page.locator("#grid button.cell[tabindex='0']").focus()
    before = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    here = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert before.startswith("untrained, base, seed 1: done") and here.startswith("full, base, seed 2: done")
    page.keyboard.press("Enter")
    expect(page.locator("#log-text")).to_contain_text("step 1")
    assert page.evaluate("document.activeElement.id") == "job-title"
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == here, "the focus returns"


def test_text_of_strangers_runs_nothing_and_the_token_leaves_the_address(opened: Callable[..., Page]) -> None:
    page = opened(width=390)
    page.locator("#grid button.is-running").first.click()
    expect(page.locator("#log-text")).to_contain_text("onerror")
    assert page.locator("img").count() == 0 and page.title() == "half-done — live"
    assert EVIL in page.locator("#alert-list").inner_text()
    assert "token" not in page.url
    page.reload()
    page.wait_for_selector("#grid button.cell")


def test_it_follows_what_happens(opened: Callable[..., Page], live: tuple[StudyDir, str]) -> None:
    page, study = opened(), live[0]
    cell = page.locator("#grid button.is-running")
    assert "45%" in cell.inner_text()
    folder = study.job(page.evaluate("live.jobs.find((job) => job.s === 'running').id"))
    told = json.loads(folder.progress_json.read_text())
    replace(folder.progress_json, json.dumps({**told, "step": 150}))
    with open(folder.logs / "rank-0.log", "a") as log:
        log.write("another line\n")
    cell.click()
    expect(page.locator("#log-text")).to_contain_text("another line")
    page.keyboard.press("Escape")
    expect(cell).to_contain_text("75%", timeout=20_000)
    failed = page.locator("#states button", has_text="failed")
    failed.click()
    assert page.locator("#grid tbody tr").count() == 1
    failed.click()
    page.fill("#find", "lora_r1")
    assert page.locator("#grid tbody th").all_inner_texts() == ["lora_r16"]
    page.fill("#find", "")
    page.select_option("#live-view", "stage:adapt")
    expect(page.locator("#curve-lines button")).to_have_count(3)
    page.locator("#grid .variant", has_text="lora_r4").click()
    expect(page.locator("#curve-lines button")).to_have_count(2)


def test_answers_that_arrive_late_change_nothing(opened: Callable[..., Page]) -> None:
    page = opened()
    late: list[Route] = []
    logs, curves = re.compile("/log[?]"), re.compile("/curves[?]")

    def hold_first(route: Route) -> None:
        late.append(route) if not late else route.continue_()

    page.route(logs, hold_first)
    page.locator("#grid button.is-failed").first.click()
    page.wait_for_selector("#log-text")
    page.keyboard.press("Escape")
    page.locator("#grid button.is-running").first.click()
    expect(page.locator("#log-text")).to_contain_text("step 1")
    late.pop().fulfill(json={"text": "of another job", "next": 14})
    page.unroute(logs)
    page.wait_for_timeout(300)
    assert "of another job" not in page.locator("#log-text").inner_text()
    page.route(curves, hold_first)
    for view in ("stage:adapt", "trial"):
        page.locator("#live-view").evaluate(
            "(choice, view) => { choice.value = view; choice.dispatchEvent(new Event('change')); }", view
        )
    page.wait_for_timeout(300)
    before = late.pop()
    answer = before.fetch()
    assert answer.json()["view"] == "stage:adapt"
    before.fulfill(response=answer)
    page.wait_for_timeout(300)
    assert page.locator("#live-view").input_value() == "trial"


def test_tables_that_cannot_be_made_again_stay_and_say_so(opened: Callable[..., Page]) -> None:
    page = opened()
    tables = page.locator("#report-sections table").count()

    def broken(route: Route) -> None:
        answer = route.fetch()
        told = {**answer.json(), "problem": "it was killed"} if "/sections" in route.request.url else answer.json()
        route.fulfill(json={**told, "sections": "another-1"})

    page.route(re.compile("/(data[?]|sections)"), broken)
    expect(page.locator("#sections-wait")).to_contain_text("it was killed; below is what was made last", timeout=20_000)
    assert page.locator("#report-sections table").count() == tables > 0
    assert "lost" not in page.locator("#pulse").get_attribute("class").split()
    page.unroute_all(behavior="wait")
    expect(page.locator("#sections-wait")).to_be_hidden(timeout=20_000)


def replace(path: Path, text: str) -> None:
    """As jobs write: whole or not at all."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)
