"""Tasks of lm-evaluation-harness give the numbers that its own class for transformers gives on the same model."""

import builtins
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tunestudy.bench.run import as_lines
from tunestudy.bench.scorer import Scorer
from tunestudy.bench.tasks import Asking, lm_eval
from tunestudy.config.benchmark import LmEval
from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.model import CharacterTokenizer
from tunestudy.models.tokenizer import character_tokenizer

pytest.importorskip("lm_eval")

CHOICE = """\
task: tiny_choice
dataset_path: json
dataset_kwargs: {data_files: {test: choice.jsonl}}
test_split: test
fewshot_split: test
output_type: multiple_choice
doc_to_text: "{{question}} ="
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
metadata: {version: 3.0}
"""
WRITE = """\
task: tiny_write
dataset_path: json
dataset_kwargs: {data_files: {test: write.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}} ="
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["7", "b"], max_gen_toks: 5}
metric_list: [{metric: exact_match}]
num_fewshot: 0
"""
ROLL = """\
task: tiny_roll
dataset_path: json
dataset_kwargs: {data_files: {test: roll.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks with their data beside them."""
    folder, letters = tmp_path_factory.mktemp("tasks"), random.Random(0)

    def words(least: int, most: int) -> str:
        return "".join(letters.choices("abcdefgh", k=letters.randint(least, most)))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    for name, text in (("choice", CHOICE), ("write", WRITE), ("roll", ROLL)):
        (folder / f"{name}.yaml").write_text(text)
    write(
        "choice.jsonl",
        [
            {"question": words(2, 9), "choices": [words(1, 4) for _ in range(3)], "label": letters.randrange(3)}
            for _ in range(13)
        ],
    )
    write("write.jsonl", [{"question": words(2, 9), "answer": words(1, 2)} for _ in range(7)])
    write("roll.jsonl", [{"text": " ".join(words(3, 9) for _ in range(n))} for n in (1, 4, 30)])
    return folder


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    tokenizer = character_tokenizer(CharacterTokenizer(alphabet="abcdefgh0123456789 =\n"))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=64,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        **shape,
    )
    return Qwen3ForCausalLM(config).eval(), tokenizer


def ours(parts: tuple[Any, Any], folder: Path, ranks: int = 1, **settings: Any) -> Any:
    scorer = Scorer(*parts, batch_size=4, device=torch.device("cpu"))

    def together(run: Any, items: list[Any]) -> list[Any]:
        """What several ranks would answer, gathered."""
        shares = [run(items[rank::ranks]) for rank in range(ranks)]
        return [shares[i % ranks][i // ranks] for i in range(len(items))]

    return lm_eval.evaluate(Asking("b", LmEval(**settings), folder, folder / "cache", scorer, together))


def theirs(parts: tuple[Any, Any], folder: Path, name: str, num_fewshot: int, limit: int | None) -> dict[str, float]:
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    from tunestudy.bench.lm_eval_tasks import load

    found = load("b", [f"{name}.yaml"], folder)
    for task in found["tasks"].values():
        task.set_config(key="num_fewshot", value=num_fewshot)
        task.set_fewshot_seed(seed=1234)
    model = HFLM(pretrained=parts[0], tokenizer=parts[1], batch_size=1, max_length=64)
    results = evaluate(lm=model, task_dict=found, limit=limit, bootstrap_iters=1000)
    [values] = results["results"].values()
    return {key.partition(",")[0]: value for key, value in values.items() if "," in key and isinstance(value, float)}


@pytest.mark.parametrize(
    ("name", "num_fewshot", "limit", "ranks"),
    [("choice", 0, None, 1), ("choice", 2, None, 3), ("choice", 1, 5, 1), ("write", 0, None, 2), ("roll", 0, None, 2)],
)
def test_numbers_are_those_of_the_harness_s_own_model(
    parts: tuple[Any, Any], tasks: Path, name: str, num_fewshot: int, limit: int | None, ranks: int
) -> None:
    settings = {} if name != "choice" else {"num_fewshot": num_fewshot}
    found = ours(parts, tasks, ranks, tasks=f"{name}.yaml", limit=limit, **settings)
    expected = theirs(parts, tasks, name, num_fewshot, limit)
    assert found.totals.metrics == pytest.approx(expected, rel=1e-5)
    assert found.totals.primary == {"choice": "acc", "write": "exact_match", "roll": "word_perplexity"}[name]
    if name == "choice":
        assert "acc_stderr" in found.totals.metrics
        assert len(found.scored) == (limit or 13)
        assert sum(row.score for row in found.scored) / len(found.scored) == pytest.approx(expected["acc"])
        assert all((row.prediction == row.reference) == row.correct for row in found.scored)
        assert all(row.asked.endswith(" =") for row in found.scored)
        assert limit or 0 < expected["acc"] < 1, "right and wrong, for the comparison to mean anything"


def test_generated_texts_are_those_of_the_harness_s_own_model(parts: tuple[Any, Any], tasks: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from tunestudy.bench.lm_eval_model import ScoringLM

    scorer = Scorer(*parts, batch_size=3, device=torch.device("cpu"))
    settings = [{"until": ["7"], "max_gen_toks": 8}, {"until": [" ", "c"], "max_gen_toks": 12}]
    asked = [
        Instance("generate_until", {}, ("abcdefgh"[: 1 + i % 8] * (1 + 2 * i), settings[i % 2]), i) for i in range(9)
    ]
    model = HFLM(pretrained=parts[0], tokenizer=parts[1], batch_size=1, max_length=64)
    own = ScoringLM(scorer, lambda run, items: run(items))
    found = own.generate_until(asked)
    assert found == model.generate_until(asked)
    assert len(set(found)) > 2


def test_a_folder_of_tasks_is_one_benchmark_with_the_mean_first(parts: tuple[Any, Any], tasks: Path) -> None:
    found = ours(parts, tasks, tasks=".", limit=2)
    metrics = found.totals.metrics
    expected = [metrics["tiny_choice/acc"], metrics["tiny_roll/word_perplexity"], metrics["tiny_write/exact_match"]]
    assert found.totals.primary == "mean of tasks"
    assert metrics["mean of tasks"] == pytest.approx(sum(expected) / 3)
    assert sorted({row.id.partition("/")[0] for row in found.scored}) == ["tiny_choice", "tiny_roll", "tiny_write"]
    assert len({row.id for row in found.scored}) == len(found.scored) == 6
    assert found.facts["lm_eval"]["tasks"]["tiny_choice"] == "3.0"
    ways = found.facts["lm_eval"]["higher_is_better"]
    assert ways["tiny_choice/acc"] is True and ways["tiny_roll/word_perplexity"] is False
    assert ways["mean of tasks"] is None, "its tasks disagree"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": "write.yaml", "num_fewshot": 2}, "without examples"),
        ({"tasks": "broken.yaml"}, "broken.yaml` cannot be loaded"),
        ({"tasks": "empty"}, "holds no task"),
        ({"tasks": "choice.yaml", "apply_chat_template": True}, "no chat template"),
    ],
)
def test_what_cannot_be_run_is_told(
    parts: tuple[Any, Any], tasks: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    (tasks / "empty").mkdir(exist_ok=True)
    other = tmp_path / "broken.yaml"
    other.write_text(CHOICE.replace("choice.jsonl", "nowhere.jsonl"))
    folder = tmp_path if settings["tasks"] == "broken.yaml" else tasks
    with pytest.raises(StudyError, match=message) as error:
        ours(parts, folder, **settings)
    assert "benchmarks.b" in str(error.value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("float('nan')", "acc of tiny_choice is nan over these answers, no number; mend it"),
        ("float('inf')", "acc of tiny_choice is inf"),
        ("sum(items) / 0", "cannot be computed over these answers .ZeroDivisionError"),
    ],
)
def test_no_other_metric_stands_in_for_a_first_one_without_a_value(
    parts: tuple[Any, Any], tasks: Path, tmp_path: Path, value: str, message: str
) -> None:
    (tmp_path / "own.py").write_text(f"def over(items):\n    return {value}\n")
    (tmp_path / "choice.jsonl").write_text((tasks / "choice.jsonl").read_text())
    first = "{metric: acc, aggregation: !function own.over, higher_is_better: true}"
    (tmp_path / "own.yaml").write_text(CHOICE.replace("{metric: acc}", first))
    with pytest.raises(StudyError, match=message) as error:
        ours(parts, tmp_path, tasks="own.yaml", limit=2)
    assert error.value.exit_code == Exit.JOBS_FAILED
    (tmp_path / "own.yaml").write_text(CHOICE.replace("{metric: acc_norm}", first.replace("acc", "acc_norm", 1)))
    if "items" not in value:
        assert "acc_norm" not in ours(parts, tmp_path, tasks="own.yaml", limit=2).totals.metrics, "beside a first one"


def test_a_task_that_samples_is_refused(parts: tuple[Any, Any], tasks: Path, tmp_path: Path) -> None:
    text = WRITE.replace("max_gen_toks: 5", "max_gen_toks: 5, do_sample: true, temperature: 0.7")
    (tmp_path / "samples.yaml").write_text(text)
    (tmp_path / "write.jsonl").write_text((tasks / "write.jsonl").read_text())
    with pytest.raises(StudyError, match="only greedy generation"):
        ours(parts, tmp_path, tasks="samples.yaml")


def test_without_the_extra_it_says_what_to_install(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunestudy.bench.lm_eval_tasks import load

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StudyError, match=r"pip install 'tunestudy\[lm-eval\]'"):
        load("b", ["choice.yaml"], tasks)


def test_a_task_that_ships_is_found_without_reading_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    from tunestudy.bench.lm_eval_tasks import _shipped

    loaded: list[tuple[int, list[str]]] = []

    def load(self: Any, names: list[str]) -> dict[str, Any]:
        loaded.append((len(self.all_tasks), names))
        return {}

    monkeypatch.setattr(TaskManager, "load", load)
    _shipped("arc_easy")
    [(known, names)] = loaded
    assert names == ["arc_easy"] and known < 20


def test_a_job_writes_the_harness_s_numbers_and_a_line_per_question(tmp_path: Path) -> None:
    from tinyjob import make_job, run

    from tunestudy.bench.run import run_benchmarks
    from tunestudy.config.job import Job
    from tunestudy.records.stop import StopRequest
    from tunestudy.train.world import World

    (tmp_path / "own.yaml").write_text(CHOICE)
    rows = [{"question": "ab", "choices": ["c", "dd"], "label": i % 2} for i in range(4)]
    (tmp_path / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = make_job(tmp_path, max_steps=1)
    job = json.loads(folder.job_json.read_text())
    job["evaluations"] = {"own": {"benchmark": {"type": "lm_eval", "tasks": "own.yaml"}, "fingerprint": "f"}}
    folder.job_json.write_text(json.dumps(job))
    run(folder)
    read = Job.model_validate_json(folder.job_json.read_text())
    assert run_benchmarks(read, folder, World(), StopRequest())
    told = json.loads(folder.eval_json("own").read_text())
    lines = [json.loads(line) for line in folder.predictions("own").read_text().splitlines()]
    assert told["metrics"]["acc"] == 0.5 and told["primary"] == "acc" and told["n"] == len(lines) == 4
    assert told["lm_eval"]["tasks"] == {"tiny_choice": "3.0"}
    assert sum(line["score"] for line in lines) == 2


def test_a_row_whose_value_is_no_number_says_so_in_valid_json(
    parts: tuple[Any, Any], tasks: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "def results(doc, results):\n"
        "    first = doc['label'] == 0\n"
        "    return {'acc': float('nan') if first else 1.0, 'acc_norm': float('inf') if first else 0.5}\n"
        "def over(items):\n    return sum(i for i in items if i == i) / len(items)\n"
    )
    rows = [{"question": "ab", "choices": ["a", "b"], "label": label} for label in (0, 1, 1)]
    (tmp_path / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = CHOICE.replace("{metric: acc}", "{metric: acc, aggregation: !function own.over, higher_is_better: true}")
    (tmp_path / "own.yaml").write_text(text + "process_results: !function own.results\n")
    evaluated = ours(parts, tmp_path, tasks="own.yaml")

    def refused(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    lines = [json.loads(line, parse_constant=refused) for line in as_lines(evaluated.scored).splitlines()]
    assert [line["score"] for line in lines] == [None, 1.0, 1.0]
    assert [line["problem"] for line in lines] == ["acc of this answer is nan, no number", "", ""]
    assert [line["others"] for line in lines] == [{}, {"acc_norm": 0.5}, {"acc_norm": 0.5}]
    assert evaluated.totals.metrics["acc"] == pytest.approx(2 / 3)
