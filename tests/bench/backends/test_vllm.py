"""What goes to vLLM and what comes back, against a module that stands in for it: the real one cannot run here."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tunestudy.bench.backends.vllm import Served, VllmScorer, _on_base, served, unexpanded
from tunestudy.bench.tasks import Question
from tunestudy.config.errors import StudyError
from tunestudy.config.job import Job
from tunestudy.data.images import ImageFacts
from tunestudy.records.layout import JobDir

TOKENIZER = SimpleNamespace(name_or_path="/models/tokenizer")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stand-in was told; it answers with the number of prompt tokens."""
    told: dict[str, Any] = {}

    class LLM:
        def __init__(self, **options: Any) -> None:
            told["made"] = options

        def generate(self, prompts: list[Any], sampling: Any, *, lora_request: Any, use_tqdm: bool) -> list[Any]:
            told.update(prompts=prompts, sampling=sampling, lora=lora_request)
            texts = [str(len(prompt["prompt_token_ids"])) for prompt in prompts]
            return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in texts]

    module, lora, request = ModuleType("vllm"), ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    module.LLM, module.SamplingParams = LLM, lambda **options: options  # type: ignore[attr-defined]
    request.LoRARequest = lambda *parts: parts  # type: ignore[attr-defined]
    for name, made in (("vllm", module), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, made)
    return told


def test_questions_go_in_as_ids_and_texts_come_back_in_order(calls: dict[str, Any]) -> None:
    scorer = VllmScorer(Served("base", "abc", dtype="bfloat16"), TOKENIZER)
    questions = [Question((1, 2, 3)), Question((4,)), Question((5, 6))]
    assert scorer.generate(questions, max_new_tokens=7, stop=("\n",)) == ["3", "1", "2"]
    assert calls["prompts"][1] == {"prompt_token_ids": [4]}
    assert calls["sampling"] == {"temperature": 0.0, "max_tokens": 7, "stop": ["\n"], "skip_special_tokens": True}
    assert calls["made"]["model"] == "base" and calls["made"]["revision"] == "abc"
    assert calls["made"]["dtype"] == "bfloat16" and "enable_lora" not in calls["made"]
    assert calls["lora"] is None


def test_a_stop_in_an_answers_leading_white_space_does_not_end_it(calls: dict[str, Any]) -> None:
    scorer = VllmScorer(Served("base"), TOKENIZER)
    full = {1: "\n\n B.\nNext", 2: "C.\nNext", 3: "\n"}

    def generate(prompts: list[Any], sampling: Any, **_: Any) -> list[Any]:
        texts = [full[len(prompt["prompt_token_ids"])] for prompt in prompts]
        texts = [text.partition("\n")[0] if sampling["stop"] else text for text in texts]
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in texts]

    scorer._model.generate = generate
    questions = [Question((7,)), Question((7, 7)), Question((7, 7, 7))]
    assert scorer.generate(questions, max_new_tokens=9, stop=("\n",)) == ["\n\n B.", "C.", "\n"]


@pytest.mark.parametrize(("rank", "served_rank"), [(1, 8), (8, 8), (12, 16), (64, 64)])
def test_an_adapter_goes_beside_its_base(tmp_path: Any, calls: dict[str, Any], rank: int, served_rank: int) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "model").mkdir()
    config = {"base_model_name_or_path": "../base", "r": 1, "rank_pattern": {"q": rank}}
    what = _on_base(config, tmp_path / "model", {"dtype": "float32"})
    assert what.model == str((tmp_path / "base").resolve())
    VllmScorer(what, TOKENIZER).generate([Question((1,))], max_new_tokens=1)
    assert calls["made"]["enable_lora"] and calls["made"]["max_lora_rank"] == served_rank
    assert calls["lora"] == ("result", 1, str(tmp_path / "model"))


@pytest.mark.parametrize("kind", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_adapters_that_vllm_cannot_serve_are_refused(tmp_path: Any, kind: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match="plain LoRA alone"):
        _on_base({"base_model_name_or_path": "a/b", "r": 4, **kind}, tmp_path, {})


def test_random_weights_are_refused(tmp_path: Any) -> None:
    model = {"architecture": "qwen3", "tokenizer": {"type": "characters", "alphabet": "a"}}
    job = Job(id="j", stage="s", fingerprint="f" * 64, seed=0, variants=("v",), model=model, settings=None)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match="random weights"):
        served(job, JobDir(tmp_path))


def test_each_image_is_one_token() -> None:
    images = tuple(ImageFacts("store", 0, 1, "0" * 64, width, 28) for width in (3, 1, 2))
    vision = SimpleNamespace(image_token=9, num_tokens=lambda size: size[0])
    ids = (1, 9, 9, 9, 9, 2, 9, 9, 3)  # the first two images touch
    assert unexpanded(Question(ids, images), SimpleNamespace(vision=vision)) == [1, 9, 9, 2, 9, 3]


def test_without_vllm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(StudyError, match="pip install vllm"):
        VllmScorer(Served("base"), TOKENIZER)


def test_a_job_s_rows_are_asked_of_vllm_and_the_model_comes_back(
    tmp_path: Any, calls: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    from tinyjob import make_job, run

    from tunestudy.bench.run import run_benchmarks
    from tunestudy.bench.scorer import Scorer
    from tunestudy.records.stop import StopRequest
    from tunestudy.train.world import World

    folder = make_job(tmp_path, max_steps=1)
    job = json.loads(folder.job_json.read_text())
    wanted = {"type": "exact_match", "dataset": "first@held_out", "backend": "vllm"}
    job["evaluations"] = {"said": {"benchmark": wanted, "fingerprint": "f"}}
    folder.job_json.write_text(json.dumps(job))
    run(folder)
    monkeypatch.setattr(Scorer, "generate", None)
    assert run_benchmarks(Job.model_validate(job), folder, World(), StopRequest())
    rows = [json.loads(line) for line in folder.predictions("said").read_text().splitlines()]
    assert sorted(row["prediction"] for row in rows) == sorted(
        str(len(p["prompt_token_ids"])) for p in calls["prompts"]
    )
    assert calls["made"]["model"] == str(folder.model)


def test_the_model_comes_back_to_the_gpu_after_vllm_has_left_it_whatever_happened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tunestudy.bench.backends import vllm
    from tunestudy.bench.run import backend
    from tunestudy.config.benchmark import ExactMatch
    from tunestudy.train.world import World

    done: list[str] = []
    monkeypatch.setattr(vllm, "served", lambda *_: Served("base"))
    monkeypatch.setattr(vllm, "VllmScorer", lambda *_: SimpleNamespace(close=lambda: done.append("vLLM left")))
    model = SimpleNamespace(to=lambda device: done.append(str(device)))
    loaded: Any = SimpleNamespace(model=model, tokenizer=TOKENIZER)
    told: tuple[Any, ...] = (ExactMatch(dataset="d", backend="vllm"), None, None, None, World(), loaded, None)
    with pytest.raises(RuntimeError, match="broken"), backend(*told, sliced=False):
        raise RuntimeError("broken")
    assert done == ["cpu", "vLLM left", "cpu"]


def test_letters_are_not_asked_of_vllm() -> None:
    from pydantic import ValidationError

    from tunestudy.config.benchmark import PublicBenchmark

    settings = {"type": "textvqa", "dataset": "d", "backend": "vllm"}
    assert PublicBenchmark.model_validate(settings).backend == "vllm"
    with pytest.raises(ValidationError, match="answer_by: generation"):
        PublicBenchmark.model_validate({**settings, "type": "mmbench_en", "answer_by": "letter"})
