"""A judge that answers, and one that answers nonsense, errors, too much, late, or not at all: a real server each."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from pydantic import ValidationError

from tunestudy.bench.judge import UNJUDGED, Judged, judged, read_answer, read_score, refuse_unjudged
from tunestudy.bench.metrics import Target
from tunestudy.bench.tasks import Row
from tunestudy.config.benchmark import PublicBenchmark
from tunestudy.config.definition import Definition
from tunestudy.config.errors import StudyError
from tunestudy.config.judge import HOME, Judge, JudgePrompts, prompts_of

Handler = Callable[[web.Request, str], Awaitable[web.StreamResponse]]
KEY = "sk-this-is-a-test-key-and-no-secret"
SCORING = JudgePrompts(version=1, score="{{ question }}|{{ answers | join(',') }}|{{ response }}")


class Server:
    """What a judge of the test's was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.at_once = 0
        self.most_at_once = 0


@contextmanager
def serving(handler: Handler) -> Iterator[Server]:
    """A judge on a free port of this machine, in a thread of its own."""
    server, loop, ready = Server(), asyncio.new_event_loop(), threading.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        server.requests.append(asked)
        server.headers.append(dict(request.headers))
        server.times.append(time.monotonic())
        server.at_once += 1
        server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            return await handler(request, asked["messages"][0]["content"])
        finally:
            server.at_once -= 1

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    def work() -> None:
        runner = loop.run_until_complete(start())
        loop.call_soon(ready.set)  # inside run_forever, which `stop` then ends
        loop.run_forever()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def says(text: str) -> web.Response:
    return web.json_response({"choices": [{"message": {"role": "assistant", "content": text}}]})


async def fair(request: web.Request, prompt: str) -> web.StreamResponse:
    """Right if the response is one of the answers."""
    _, answers, response = prompt.split("|")
    return says(json.dumps({"score": int(response in answers.split(","))}))


def row(number: int, answer: str = "yes") -> Row:
    return Row(f"r{number}", (), answer, asked=f"question {number}", target=Target((answer,)))


def ask(server: Server, predictions: list[str], prompts: JudgePrompts = SCORING, **options: Any) -> list[Judged]:
    settings = {"max_retries": 2, "backoff_s": 0.01, "timeout_s": 5.0, **options}
    judge = Judge(url=server.url, model="m", prompts=prompts, **settings)
    definition = Definition(version=1, metric="fake")
    return judged([row(i) for i in range(len(predictions))], predictions, judge, definition)


def test_scores_are_the_judge_s_in_the_order_of_the_rows() -> None:
    predictions = ["yes" if i % 3 else "no" for i in range(20)]
    with serving(fair) as server:
        found = ask(server, predictions, concurrency=3)
    assert [one.score for one in found] == [float(text == "yes") for text in predictions]
    assert all(one.problem == "" and json.loads(one.judgement) == {"score": int(one.score)} for one in found)
    assert len(server.requests) == 20 and server.most_at_once <= 3
    assert all(asked["model"] == "m" and asked["temperature"] == 0 for asked in server.requests)
    assert all("Authorization" not in headers for headers in server.headers)


def sometimes(bad: Callable[[web.Request], Awaitable[web.StreamResponse]], times: int) -> Handler:
    """`bad` for the first `times` requests of every prompt, then fair."""
    seen: Counter[str] = Counter()

    async def answer(request: web.Request, prompt: str) -> web.StreamResponse:
        seen[prompt] += 1
        return await bad(request) if seen[prompt] <= times else await fair(request, prompt)

    return answer


async def error_500(request: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="overloaded")


async def nonsense(request: web.Request) -> web.StreamResponse:
    return says("I think this is quite good!")


async def not_a_completion(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>welcome</html>")


async def closes(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def hangs(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


@pytest.mark.parametrize("bad", [error_500, nonsense, not_a_completion, closes, hangs])
def test_what_passes_is_asked_again(bad: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    with serving(sometimes(bad, times=2)) as server:
        found = ask(server, ["yes", "no"], timeout_s=0.3)
    assert [one.score for one in found] == [1.0, 0.0]
    assert not any(one.problem for one in found)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (error_500, "HTTP 500: overloaded"),
        (nonsense, "cannot be read"),
        (not_a_completion, "no chat completion"),
        (closes, "broke off"),
        (hangs, "no reply within 0.3 s"),
    ],
)
def test_one_sample_that_stays_unjudged_counts_as_wrong_and_says_why(
    bad: Callable[[web.Request], Awaitable[web.StreamResponse]], why: str
) -> None:
    async def answer(request: web.Request, prompt: str) -> web.StreamResponse:
        return await bad(request) if prompt.startswith("question 1|") else await fair(request, prompt)

    with serving(answer) as server:
        found = ask(server, ["yes", "yes", "yes"], timeout_s=0.3)
    assert [one.score for one in found] == [1.0, 0.0, 1.0]
    assert found[1].problem.startswith(UNJUDGED) and why in found[1].problem
    assert found[0].problem == found[2].problem == ""
    assert len(server.requests) == 2 + 3


def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=429, headers={"Retry-After": "1"})

    with serving(sometimes(busy, times=1)) as server:
        [one] = ask(server, ["yes"])
    assert one.score == 1.0
    assert server.times[1] - server.times[0] >= 0.99, "asked again before the second was over"


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_an_error_that_will_not_pass_is_not_asked_again_and_names_the_url(status: int) -> None:
    async def refuse(request: web.Request, prompt: str) -> web.StreamResponse:
        return web.Response(status=status, text="no such model", headers={"Location": "http://127.0.0.1:9/"})

    with serving(refuse) as server, pytest.raises(StudyError, match=f"HTTP {status}: no such model") as error:
        ask(server, ["yes", "no"], concurrency=8)
    assert f"{server.url}/chat/completions" in error.value.message
    assert len(server.requests) == 2


def test_nobody_there_is_an_error_that_names_the_url() -> None:
    with serving(fair) as server:
        pass
    with pytest.raises(StudyError, match=r"judged none of 3 answers.*no connection") as error:
        ask(server, ["yes"] * 3, max_retries=1)
    assert server.url in error.value.message


def test_a_judge_that_never_answers_is_not_waited_for_once_per_sample() -> None:
    with serving(lambda request, prompt: hangs(request)) as server, pytest.raises(StudyError, match="no reply within"):
        ask(server, ["yes"] * 200, timeout_s=0.2, concurrency=4, max_retries=1)
    assert len(server.requests) <= 16


def test_nonsense_about_all_of_many_is_an_error_but_about_a_few_is_counted() -> None:
    with serving(lambda request, prompt: nonsense(request)) as server:
        assert all(one.problem for one in ask(server, ["yes"] * 2, max_retries=0))
        with pytest.raises(StudyError, match="judged none of 6"):
            ask(server, ["yes"] * 6, max_retries=0)
    judge = Judge(url=server.url, model="m")
    with pytest.raises(StudyError, match="judged none of 2"):
        refuse_unjudged([f"{UNJUDGED}x"] * 2, judge)
    refuse_unjudged([f"{UNJUDGED}x", ""], judge)


def test_the_key_goes_into_one_header_and_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_JUDGE", KEY)

    async def echoes(request: web.Request, prompt: str) -> web.StreamResponse:
        sent = request.headers["Authorization"]
        if prompt.startswith("question 1|"):
            return web.Response(status=400, text=f"bad key {sent}")
        return says(f'you sent {sent}: {{"score": 1}}')

    with serving(echoes) as server:
        found = ask(server, ["yes", "yes"], api_key_env="MY_JUDGE")
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert found[0].score == 1 and "[hidden]" in found[0].judgement and "[hidden]" in found[1].problem
    assert KEY not in repr(found) and KEY not in json.dumps(server.requests)


def test_a_key_that_is_not_there_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_JUDGE", raising=False)
    with serving(fair) as server, pytest.raises(StudyError, match="MY_JUDGE is not set"):
        ask(server, ["yes"], api_key_env="MY_JUDGE")
    assert server.requests == []


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "localhost:8000"},
        {"url": "http://me:secret@host/v1"},
        {"url": "http://host/v1?api_key=x"},
        {"url": "http://host/v1", "api_key_env": "sk-abc"},
    ],
)
def test_settings_that_would_write_a_key_down_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Judge(model="m", **settings)


def fake_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """A metric that understands single letters alone."""
    from types import SimpleNamespace

    from tunestudy.bench.metrics import Verdict

    def verdict(prediction: str, target: Target, way: str) -> Verdict:
        read = prediction if len(prediction) == 1 else None
        return Verdict(float(read == target.letter), read)

    monkeypatch.setattr("tunestudy.bench.judge.metric", lambda name: SimpleNamespace(verdict=verdict))


def test_options_are_matched_by_rules_first_and_by_the_judge_where_rules_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_metric(monkeypatch)

    async def match(request: web.Request, prompt: str) -> web.StreamResponse:
        assert "A. cat\nB. dog" in prompt
        said = prompt.partition("<response>")[2].partition("</response>")[0]
        letter = {"it barks": '"B"', "it sleeps": "null", "odd": '"C"'}[said.strip()]
        return says(f'```json\n{{"answer": {letter}}}\n```')

    rows = [
        Row(f"r{i}", (), "B", asked="what?", target=Target(("dog",), choices=("cat", "dog"), letter="B"))
        for i in range(5)
    ]
    with serving(match) as server:
        judge = Judge(url=server.url, model="m", prompts=prompts_of("choice"), max_retries=0)
        predictions = ["B", "A", "it barks", "it sleeps", "odd"]
        found = judged(rows, predictions, judge, Definition(version=1, metric="choice"))
    assert [one.score for one in found] == [1, 0, 1, 0, 0]
    assert [one.understood for one in found] == ["B", "A", "B", None, None]
    assert [bool(one.problem) for one in found] == [False, False, False, False, True]
    assert len(server.requests) == 3


def test_mathverse_is_extracted_and_then_scored() -> None:
    async def two_stages(request: web.Request, prompt: str) -> web.StreamResponse:
        if "Answer to compare: 12" in prompt:
            assert "Right answer: 12" in prompt
            return says('{"score": 1}')
        assert "so it is 12 cm" in prompt
        return says('{"answer": 12}')

    rows = [Row("r", (), "12", asked="how long?", target=Target(("12",)))]
    with serving(two_stages) as server:
        judge = Judge(url=server.url, model="m", prompts=prompts_of("mathverse"), max_retries=0)
        [one] = judged(rows, ["so it is 12 cm"], judge, Definition(version=1, metric="mathverse"))
    assert one == Judged(1.0, "12", "", '{"answer": 12}\n{"score": 1}')


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ('{"answer": "7"}', "7"),
        ('hm {"answer": "6"} no: {"answer": "7"}', "7"),
        ('```json\n{"answer": [1, 2]}\n```', "[1, 2]"),
        ('{"answer": null}', None),
        ('{"answer": " "}', None),
        ('<think>{"a"</think>{"answer": 7, "why": {"x": 1}}', "7"),
    ],
)
def test_answers_are_found_in_what_judges_write(text: str, read: str | None) -> None:
    assert read_answer(text) == read


@pytest.mark.parametrize("text", ["", "7", '{"answer": true}', '{"answer": {}}', '{"score": 1}', '{"answer": "7"'])
def test_what_is_no_answer_is_never_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        read_answer(text)


@pytest.mark.parametrize("text", ["1", '{"score": 0.5}', '{"score": "good"}', '{"score": null}', '{"score": 2}'])
def test_what_is_no_score_is_never_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="no "):
        read_score(text)


@pytest.mark.parametrize("name", sorted(path.stem for path in HOME.glob("*.yaml")))
def test_every_prompt_that_ships_shows_the_question_and_asks_for_what_is_read(name: str) -> None:
    from tunestudy.bench.judge import rendered

    prompts = prompts_of(name)
    facts = {
        "question": "Q-mark",
        "options": [("A", "one")],
        "answers": ["R-mark"],
        "response": "P-mark",
        "extracted": "P-mark",
    }
    for template, key in ((prompts.extract, "answer"), (prompts.score, "score")):
        if template is not None:
            text = rendered(template, facts)
            assert "P-mark" in text and f'{{"{key}":' in text
            assert ("R-mark" in text) == (key == "score")
    assert prompts.extract or prompts.score


def test_a_study_names_a_judge_and_the_prompts_become_part_of_the_score() -> None:
    from tunestudy.study.fingerprint import benchmark_digest

    settings = {"type": "textvqa", "dataset": "d", "judge": {"url": "http://host/v1", "model": "m"}}
    benchmark = PublicBenchmark.model_validate(settings)
    assert benchmark.judge is not None and benchmark.judge.prompts == prompts_of("vqa")
    again = PublicBenchmark.model_validate_json(benchmark.model_dump_json())
    assert again == benchmark
    other = benchmark.judge.model_copy(update={"prompts": benchmark.judge.prompts.model_copy(update={"score": "?"})})
    assert benchmark_digest(benchmark, "") != benchmark_digest(benchmark.model_copy(update={"judge": other}), "")
    quick = benchmark.judge.model_copy(update={"concurrency": 1, "api_key_env": "K"})
    assert benchmark_digest(benchmark, "") == benchmark_digest(benchmark.model_copy(update={"judge": quick}), "")
