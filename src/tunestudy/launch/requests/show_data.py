"""`tunestudy data`: samples of a study as its model sees them, with what of them is learnt."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.job import Job
from tunestudy.config.stage import TrainStage
from tunestudy.records.atomic import read_json, remove_tree, write_json, write_text
from tunestudy.records.layout import REQUEST, SHOWN, JobDir, StudyDir
from tunestudy.records.redact import redact, redact_tree
from tunestudy.report.data_page import render_data, unknown_in
from tunestudy.report.format import plural
from tunestudy.study.load import LoadedStudy
from tunestudy.study.nearest import did_you_mean
from tunestudy.study.plan import make_plan

MODULE = "tunestudy.train.show_data"
_LEARNT, _MASKED, _SPECIAL, _IMAGE = "bold green", "dim", "cyan", "magenta"
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
"""Text of others must not steer a terminal: escapes are shown as pictures of themselves."""


def show_data(
    loaded: LoadedStudy,
    results: Path,
    *,
    dataset: str = "",
    stage: str = "",
    variant: str = "",
    num_samples: int = 3,
    num_records: int | None = 1000,
    html: Path | None = None,
    as_json: bool = False,
) -> Exit:
    """Print counts and samples, or write them to `html`; exit code 3 when no sample is left to show.

    Raises StudyError for names that nothing has, and for data that cannot be read.
    """
    plan = make_plan(loaded, results)
    jobs = [planned.job for planned in plan.jobs if planned.job.training is not None]
    job = chosen_job(loaded, jobs, dataset=dataset, stage=stage, variant=variant)
    sources = sources_of(job, dataset)
    shown = asked_for(job, plan.folder, loaded, sources, num_samples=num_samples, num_records=num_records)
    facts = {"study": loaded.study.study, **of_job(job), **shown}
    if as_json:
        print(json.dumps(redact_tree(facts), indent=1, ensure_ascii=False))
    elif html is not None:
        _written(html, render_data(facts))
    else:
        _print(facts)
    return Exit.DONE if any(source["samples"] for source in shown["sources"]) else Exit.PREFLIGHT_REFUSED


def chosen_job(loaded: LoadedStudy, jobs: Sequence[Job], *, dataset: str, stage: str, variant: str) -> Job:
    """The first job of the plan that trains on the data set, of this stage and variant where they are named."""
    name = dataset.partition("@")[0]
    variants = {one: list(value.training) for one, value in loaded.study.variants.items()}
    if name and name not in loaded.study.datasets:
        told = f"there is no data set `{name}`; {did_you_mean(name, loaded.study.datasets)}"
        raise StudyError("--dataset", told)
    if variant and variant not in variants:
        raise StudyError("--variant", f"there is no variant `{variant}`; {did_you_mean(variant, variants)}")
    known = dict.fromkeys(one for of in variants.values() for one in of)
    if stage and stage not in known:
        raise StudyError("--stage", f"there is no stage `{stage}` that trains; {did_you_mean(stage, known)}")
    fitting = [job for job in jobs if stage in ("", job.stage) and (not variant or variant in job.variants)]
    if not fitting:
        of = " and ".join(filter(None, (stage and f"stage {stage}", variant and f"variant {variant}")))
        raise StudyError("command line", f"no job that trains belongs to {of or 'the study'}")
    reading = [job for job in fitting if not name or name in _read_by(job)]
    if not reading and not stage:
        told = f"no stage trains or evaluates on {name}; --stage NAME shows it as that stage would see it"
        raise StudyError("--dataset", told)
    job = (reading or fitting)[0]
    return job if not name or name in job.datasets else job.model_copy(update={"datasets": _with(loaded, job, name)})


def _with(loaded: LoadedStudy, job: Job, name: str) -> dict[str, Any]:
    return {**job.datasets, name: loaded.study.datasets[name]}


def _read_by(job: Job) -> set[str]:
    settings = job.training
    assert settings is not None
    return {part.dataset.partition("@")[0] for part in (*settings.data, *settings.eval_data)}


def sources_of(job: Job, dataset: str) -> list[str]:
    """What to show: the data set that was named, or all that the stage trains on."""
    settings = job.training
    assert settings is not None
    if not dataset:
        return [part.dataset for part in settings.data]
    if dataset.endswith("@held_out") and job.datasets[dataset.partition("@")[0]].held_out == 0:
        raise StudyError("--dataset", f"held_out of {dataset.partition('@')[0]} is 0: it has no such rows")
    return [dataset]


def of_job(job: Job) -> dict[str, Any]:
    """The settings that decide how records become samples."""
    settings = job.training
    assert isinstance(settings, TrainStage)
    return {
        "stage": job.stage,
        "variants": list(job.variants),
        "max_length": settings.max_length,
        "overlong": settings.overlong,
        "loss_on": settings.loss_on,
        "packing": settings.packing,
    }


def asked_for(
    job: Job, study: StudyDir, loaded: LoadedStudy, sources: Sequence[str], *, num_samples: int, num_records: int | None
) -> dict[str, Any]:
    """What the worker plane makes of the records, in a folder of its own that is removed."""
    folder = JobDir(study.cache / f"show-{os.getpid()}")
    try:
        write_json(folder.job_json, job.model_dump(mode="json"))
        request = {"sources": list(sources), "num_samples": num_samples, "num_records": num_records}
        write_json(folder.root / REQUEST, request)
        environment = {**os.environ, **loaded.study.env, "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, "-m", MODULE, str(folder.root)]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        shown = read_json(folder.root / SHOWN)
    except OSError as error:
        told = f"cannot be written: {error.strerror}; choose another folder with --results"
        raise StudyError(str(folder.root), told, exit_code=Exit.PREFLIGHT_REFUSED) from error
    finally:
        remove_tree(folder.root)
    if shown is None:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        cure = "pip install 'tunestudy[train]'" if "No module named" in said else "`tunestudy check` may tell more"
        raise StudyError("data", f"could not be shown: {redact(said)}; {cure}", exit_code=Exit.PREFLIGHT_REFUSED)
    if "error" in shown:
        raise StudyError(shown["key"], shown["error"], exit_code=Exit(done.returncode))
    found: dict[str, Any] = shown
    return found


def _written(file: Path, page: str) -> None:
    try:
        write_text(file, page)
    except OSError as error:
        raise StudyError("--html", f"{file} cannot be written: {error.strerror}") from error
    print(f"written: {file}")


def _print(facts: Mapping[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    brackets = None if console.is_terminal and console.color_system else _brackets(console.encoding)
    for text in as_text(facts, brackets):
        console.print(text)


def _brackets(encoding: str) -> tuple[str, str]:
    return ("⟦", "⟧") if encoding.lower().replace("-", "").startswith("utf") else ("[[", "]]")


def as_text(facts: Mapping[str, Any], brackets: tuple[str, str] | None) -> Iterator[Text]:
    """All lines; learnt spans stand between brackets where there are no colours."""
    key = f"{brackets[0]}learnt{brackets[1]}" if brackets else "learnt"
    yield Text(f"stage {facts['stage']} of {', '.join(facts['variants'][:3])}: {how(facts)}")
    yield Text.assemble("tokens: ", (key, _LEARNT), " ", ("masked", _MASKED), " ", ("special", _SPECIAL))
    for source in facts["sources"]:
        yield Text()
        yield Text(f"{source['source']}: {counts_of(source)}", style="bold")
        if source["unknown"]:
            yield Text(f"  {unknown_in(source)}", style="yellow")
        for example in source["examples"]:
            yield Text(f"  left out: {_plain(example['place'])}: {_plain(example['reason'])}", style="yellow")
        if facts["packs"] is None:
            for sample in source["shown"]:
                yield _sample(sample, brackets)
    for number, row in enumerate(facts["packs"] or (), 1):
        filled = sum(sample["tokens"] for sample in row)
        yield Text(f"\npack {number}: {plural(len(row), 'sample')}, {filled} of {facts['max_length']} tokens", "bold")
        for sample in row:
            yield _sample(sample, brackets)


def how(facts: Mapping[str, Any]) -> str:
    """The stage's settings in words."""
    packed = ", packed" if facts["packing"] else ""
    return f"loss on {facts['loss_on']}, at most {facts['max_length']} tokens ({facts['overlong']} longer ones){packed}"


def counts_of(source: Mapping[str, Any]) -> str:
    """Records, samples, tokens, learnt share, and what was left out."""
    looked = f"{source['looked_at']:,}" if source["is_all"] else f"the first {source['looked_at']:,}"
    rest = "the others are trained on" if source["is_held_out"] else f"{source['other_side']:,} held out"
    of = f"{source['read']:,} records" + (f" ({rest})" if source["other_side"] else "")
    told = [f"{looked} of {of}: {plural(source['samples'], 'sample')}, {source['tokens']:,} tokens"]
    if source["tokens"]:
        told.append(f"{source['learnt'] / source['tokens']:.1%} learnt")
    if source["images"]:
        told.append(plural(source["images"], "image"))
    if source["truncated"]:
        told.append(f"{source['truncated']:,} truncated")
    for word, reasons in (("unreadable", source["unreadable"]), ("rejected", source["rejected"])):
        if reasons:
            listed = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
            told.append(f"{sum(reasons.values()):,} {word} ({listed})")
    return "; ".join(told)


def _sample(sample: Mapping[str, Any], brackets: tuple[str, str] | None) -> Text:
    where = f"{_plain(sample['id'])[:24]} · {_plain(sample['place'])}"
    head = f"── {where} · {sample['tokens']} tokens, {sample['learnt']} learnt\n"
    text = Text(head, style=_MASKED)
    inside = False
    for segment in [*sample["segments"], None]:
        learnt = segment is not None and segment["learnt"]
        if brackets and learnt != inside:
            text.append(brackets[learnt is False])
        inside = learnt
        if segment is not None:
            text.append(_words(segment), style=_style(segment))
    return text


def _words(segment: Mapping[str, Any]) -> str:
    return f"[{segment['text']}]" if segment["kind"] == "image" else _plain(segment["text"])


def _style(segment: Mapping[str, Any]) -> str:
    if segment["kind"] == "image":
        return _IMAGE
    colour = _SPECIAL if segment["kind"] == "special" else ""
    return f"{_LEARNT} {'underline' if colour else ''}".strip() if segment["learnt"] else colour or _MASKED


def _plain(text: str) -> str:
    return redact(text).translate(_CONTROL)
