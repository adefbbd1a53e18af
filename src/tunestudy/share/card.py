"""The model card: what is known of a result from the files of its run, and nothing else.

What was not recorded is left out, never guessed. Equal facts give equal bytes, so that a second push changes nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunestudy.report.compare import Cell, Headline
from tunestudy.report.differences import not_default
from tunestudy.report.facts import JobFacts, Settings, StudyFacts
from tunestudy.report.format import count, duration, memory_mb, p_value, plural, setting, sig, signed
from tunestudy.report.machines import hardware_of
from tunestudy.report.markdown import code, escape, fenced, table
from tunestudy.report.values import mapping
from tunestudy.share.loading import adapter_base, how_to_load, sees_images

_HIDDEN = ("push_to_hub", "hub_")
"""Settings that say nothing of how the result was made."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """All that a card is made of."""

    repo: str
    folder: Path
    """The published model."""
    manifest: Mapping[str, Any]
    study: StudyFacts
    headline: Headline
    job: JobFacts
    datasets: Mapping[str, Settings]
    """The job's data sets as the study names them."""
    identities: Mapping[str, Any]
    """What tells their content apart, by name."""
    licence: str | None = None
    """Of the base, where its own card names one."""
    base: tuple[str, str | None] | None = field(init=False)
    """Hub id and revision of what the result sits on or was trained from."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", base_of(self.manifest, self.folder, self.study.model))


def base_of(manifest: Mapping[str, Any], folder: Path, model: Settings) -> tuple[str, str | None] | None:
    """The base's hub id and the commit that was loaded; None where it is not on the hub."""
    told = mapping(manifest.get("base"))
    if told.get("kind") == "hub" and told.get("name"):
        return str(told["name"]), told.get("revision") or model.get("revision")
    return adapter_base(folder)


def render_card(facts: CardFacts) -> str:
    """README.md: metadata in YAML that the hub understands, and sections for people."""
    sections = [
        f"# {escape(facts.repo.rpartition('/')[2])}",
        *_opening(facts),
        "## How to load",
        fenced(how_to_load(facts.folder, kind_of(facts), facts.repo, facts.base), "python"),
        *_results(facts),
        "## Training",
        table(("", ""), [(escape(name), value) for name, value in _training(facts)]),
        *_settings(facts),
        *_data(facts),
        "## Made with",
        _versions(facts),
    ]
    return f"---\n{metadata(facts)}\n---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def kind_of(facts: CardFacts) -> str:
    return str(facts.manifest.get("kind") or "full")


def metadata(facts: CardFacts) -> str:
    """The YAML between the dashes, written by the hub's own client."""
    from huggingface_hub import EvalResult, ModelCardData

    kind = kind_of(facts)
    task = "image-text-to-text" if sees_images(facts.folder) else "text-generation"
    adapter = mapping((facts.job.settings or {}).get("adapter")).get("type")
    on_hub = [str(one["name"]) for one in facts.datasets.values() if one.get("type") == "hub"]
    scores = [
        EvalResult(
            task_type=task,
            dataset_type=_dataset_id(score.dataset, facts.datasets),
            dataset_name=score.title or name,
            metric_type=score.primary,
            metric_value=round(score.metrics[score.primary], 6),
            metric_name=f"{name} {score.primary}",
        )
        for name, score in sorted(facts.job.scores.items())
        if score.primary in score.metrics
    ]
    data = ModelCardData(
        base_model=facts.base[0] if facts.base else None,
        base_model_relation=_RELATION.get(kind) if facts.base else None,
        datasets=list(dict.fromkeys(on_hub)) or None,
        license=facts.licence,
        library_name="peft" if kind == "adapter" else "transformers",
        pipeline_tag=task,
        tags=[tag for tag in ("tunestudy", adapter) if tag],
        model_name=facts.repo.rpartition("/")[2],
        eval_results=scores or None,
        ignore_metadata_errors=False,
    )
    return data.to_yaml().strip()


_RELATION = {"adapter": "adapter", "full": "finetune"}


def _dataset_id(named: str, datasets: Mapping[str, Settings]) -> str:
    name = named.partition("@")[0]
    one = datasets.get(name, {})
    return str(one["name"]) if one.get("type") == "hub" else name or "unknown"


def _opening(facts: CardFacts) -> Iterator[str]:
    what = {"adapter": "An adapter", "world": "A world part", "mole": "A mixture of LoRA experts"}
    of = f" of {code(facts.base[0])}" if facts.base else ""
    study = f"study {code(facts.study.name)}"
    where = f"stage {code(facts.job.stage)}, variant {code(', '.join(facts.job.variants))}, seed {facts.job.seed}"
    yield f"{what.get(kind_of(facts), 'A model')}{of}: {where} of the {study}."
    if facts.study.description:
        yield escape(facts.study.description)
    if facts.base is None and kind_of(facts) != "full":
        yield (
            "**Its base is not on the hub** (random or merged weights, or a folder); its SHA-256 is in "
            "`MANIFEST.json`. Whoever has it not needs the whole model: `tunestudy export --form merged`."
        )


def _results(facts: CardFacts) -> Iterator[str]:
    """This result's scores, and its variant's over seeds against the baseline."""
    if not facts.job.scores:
        return
    yield "## Results"
    rows = [
        (escape(name), escape(score.primary), sig(score.metrics.get(score.primary)), count(score.rows))
        for name, score in sorted(facts.job.scores.items())
    ]
    yield table(("benchmark", "metric", "this result", "rows"), rows)
    cells = [cell for cell in facts.headline.cells if cell.primary and cell.variant in facts.job.variants]
    last = {facts.study.stages_of(name)[-1] for name in facts.job.variants if name in facts.study.variants}
    if facts.job.stage not in last or not any(cell.summary.n > 1 or cell.comparison for cell in cells):
        return
    yield table(
        ("benchmark", "variant", "mean over seeds", "95 % interval", "seeds", "Δ to baseline", "p (corrected)"),
        [tuple(map(escape, _row(cell))) for cell in cells],
    )
    if facts.headline.baseline:
        yield f"Baseline: {code(facts.headline.baseline)}. Tests are paired by seed, exact sign-flip."


def _row(cell: Cell) -> tuple[object, ...]:
    one, test = cell.summary, cell.comparison
    interval = "—" if one.ci_low is None else f"{sig(one.ci_low)} to {sig(one.ci_high)}"
    against = (signed(test.delta.mean), p_value(test.p_corrected)) if test else ("—", "—")
    return (cell.benchmark, cell.variant, sig(one.mean), interval, one.n, *against)


def _training(facts: CardFacts) -> Iterator[tuple[str, str]]:
    """What is known, a row each."""
    done, model = facts.job.training, facts.study.model
    if facts.base:
        yield "base", code(facts.base[0] + (f" at {facts.base[1]}" if facts.base[1] else ""))
    elif facts.job.parents and kind_of(facts) != "full":
        yield "base", f"the result of {code(facts.job.parents[-1])}"
    elif model.get("architecture"):
        yield "base", f"random weights of {code(model['architecture'])}"
    yield "seed", str(facts.job.seed)
    if facts.job.parents and (facts.base or kind_of(facts) == "full"):
        yield "after", ", ".join(code(parent) for parent in facts.job.parents)
    if bits := mapping(facts.manifest.get("quantization")):
        yield "base while training", "8 bits" if bits.get("load_in_8bit") else f"4 bits ({bits['bnb_4bit_quant_type']})"
    if done is None:
        return
    numbers = {
        "steps": count(done.steps) if done.steps else "",
        "tokens": count(done.tokens) if done.tokens else "",
        "effective batch size": count(done.effective_batch_size) if done.effective_batch_size else "",
        "trainable parameters": count(done.trainable_params) if done.trainable_params else "",
        "parameters in use after pruning": count(done.effective_params) if done.gates else "",
        "last training loss": sig(done.final_train_loss) if done.final_train_loss is not None else "",
        "time": duration(done.duration_s) if done.duration_s else "",
        "peak memory of a rank": memory_mb(done.peak_memory_mb) if done.peak_memory_mb else "",
        "ranks": count(done.world_size) if done.world_size else "",
        "hardware": escape(hardware_of(facts.job.environment)),
    }
    yield from ((name, value) for name, value in numbers.items() if value)


def _settings(facts: CardFacts) -> Iterator[str]:
    chosen = not_default(facts.job.settings or {})
    told = [f"{key}: {setting(value)}" for key, value in chosen.items() if not key.startswith(_HIDDEN)]
    if told:
        yield "Settings that are not the default:"
        yield fenced("\n".join(told), "yaml")


def _data(facts: CardFacts) -> Iterator[str]:
    sources = mapping(facts.job.data.get("sources"))
    if not sources:
        return
    yield "## Data"
    rows = []
    for name, of in sources.items():
        plain = str(name).partition("@")[0]
        samples, tokens = mapping(of).get("samples"), mapping(of).get("tokens")
        rows.append((code(name), _origin(facts.datasets.get(plain, {})), count(samples), count(tokens)))
    yield table(("data set", "from", "samples", "tokens"), rows)
    held = mapping(facts.job.data.get("eval")).get("rows")
    told = {name: identity for name, identity in facts.identities.items() if name in _plain_names(sources)}
    if told:
        yield "What tells their content apart:"
        yield fenced("\n".join(f"{name}: {setting(identity)}" for name, identity in told.items()), "yaml")
    if held:
        yield f"{plural(int(held), 'row')} were held out and never trained on."


def _plain_names(sources: Settings) -> set[str]:
    return {str(name).partition("@")[0] for name in sources}


def _origin(dataset: Settings) -> str:
    kind = dataset.get("type")
    if dataset.get("name"):
        name = str(dataset["name"]) + (f" at {dataset['revision']}" if dataset.get("revision") else "")
        return code(name)
    if kind == "file":
        return code(Path(str(dataset.get("path"))).name)
    return escape(str(kind or "—"))


def _versions(facts: CardFacts) -> str:
    told = {**mapping(facts.manifest.get("versions"))}
    lines = ", ".join(f"{name} {version}" for name, version in sorted(told.items()))
    python = facts.job.environment.get("python")
    return escape(lines + (f", Python {python}" if python else "")) + "."
