"""Questions of a public benchmark from any data set, and those who answer them without a model."""

from collections.abc import Callable, Sequence
from pathlib import Path
from string import printable
from typing import Any

from pydantic import TypeAdapter

from tunestudy.bench.rows import read_rows
from tunestudy.bench.tasks import Question, Row
from tunestudy.config.benchmark import AnyBenchmark, PublicBenchmark
from tunestudy.config.definition import Definition
from tunestudy.config.job import Evaluation, Job
from tunestudy.models.loaded import LoadedModel
from tunestudy.records.layout import JobDir

EVERY_LETTER = printable + "".join(map(chr, range(0xAC00, 0xD7A4)))
"""Of English and Korean: no two questions are the same to a tokenizer that knows them."""


def benchmark_of(kind: str, definition: Definition | None = None, **options: Any) -> PublicBenchmark:
    """The benchmark of that name over the data set `d`; definition: another one than the name's."""
    made = TypeAdapter(AnyBenchmark).validate_python({"type": kind, "dataset": "d", **options})
    assert isinstance(made, PublicBenchmark)
    return made if definition is None else made.model_copy(update={"definition": definition})


def rows_of(
    folder: Path, model: LoadedModel, benchmark: PublicBenchmark, dataset: dict[str, Any], *, eyes: bool = True
) -> list[Row]:
    """The rows that this model would be asked, in a job whose study lies in `folder`."""
    from tinyeyes import eyes_of

    job, job_dir = job_of(folder, dataset)
    return read_rows("mine", benchmark, job, job_dir, model.tokenizer, eyes_of(model, folder) if eyes else None)


def job_of(folder: Path, dataset: dict[str, Any], **evaluations: PublicBenchmark) -> tuple[Job, JobDir]:
    """A job that only evaluates, on the data set `d`; the study file's folder is `folder`."""
    values = {
        "id": "a-0",
        "stage": "a",
        "fingerprint": "0" * 64,
        "seed": 0,
        "variants": ["v"],
        "model": {"model_name_or_path": "m"},
        "settings": None,
        "datasets": {"d": dataset},
        "base_dir": str(folder.absolute()),
    }
    job_dir = JobDir(folder / "results" / "study" / "jobs" / "a-0")
    wanted = {name: Evaluation(benchmark=one, fingerprint="1" * 64) for name, one in evaluations.items()}
    return Job.model_validate(values).model_copy(update={"evaluations": wanted}), job_dir


class Oracle:
    """Answers every question from its row: `say(row)` is the text, or of options the letter."""

    def __init__(self, rows: Sequence[Row], say: Callable[[Row], str]) -> None:
        self._rows = {row.prompt_ids + tuple(image.sha256 for image in row.images): row for row in rows}
        self._say = say
        self.asked = 0

    def _answer(self, question: Question) -> str:
        self.asked += 1
        return self._say(self._rows[question.ids + tuple(image.sha256 for image in question.images)])

    def generate(self, questions: Sequence[Question], *, max_new_tokens: int, stop: Sequence[str] = ()) -> list[str]:
        return [self._answer(question) for question in questions]

    def option_log_probabilities(self, asked: Sequence[tuple[Question, Sequence[str]]]) -> list[list[float]]:
        answers = [(self._answer(question), options) for question, options in asked]
        return [[0.0 if option == answer else -5.0 for option in options] for answer, options in answers]
