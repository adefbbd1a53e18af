"""EXPERIMENT.md: the living document of a study, every section filled from facts, with marked places for a person."""

from tunestudy.report.compare import Headline
from tunestudy.report.cost import total
from tunestudy.report.differences import not_default
from tunestudy.report.experiment_merges import merge_summary, mixture_summary
from tunestudy.report.experiment_progress import training_progress
from tunestudy.report.experiment_samples import sample_summary
from tunestudy.report.experiment_sparsity import sparsity_summary
from tunestudy.report.facts import JobFacts, StudyFacts
from tunestudy.report.findings import alerts, problems, warnings_of
from tunestudy.report.foreseen import foreseen_table
from tunestudy.report.format import MISSING, duration, listing, moment, plural, setting, short_count, size
from tunestudy.report.gpu_hours import gpu_hours
from tunestudy.report.lineage import kind_of_job, origins
from tunestudy.report.machines import Machine, machines
from tunestudy.report.markdown import code, escape, fenced, table
from tunestudy.report.notes import block
from tunestudy.report.observations import observations
from tunestudy.report.readiness import checklist
from tunestudy.report.tables import to_markdown
from tunestudy.report.tracking import tracking_table
from tunestudy.report.values import number

_MOST_JOBS = 200
"""Rows of a table of jobs; a larger study's plan is in plan.json and in the page."""


def render_experiment(facts: StudyFacts, headline: Headline) -> str:
    """The whole document, with empty places for notes."""
    sections = [
        _head(facts),
        _environment(facts),
        _config(facts),
        _plan(facts),
        training_progress(facts),
        _issues(facts, headline),
        _outputs(facts),
        _summary(facts, headline),
        f"## Notes\n\n{block('notes')}",
    ]
    return "\n\n---\n\n".join(sections) + "\n"


def _head(facts: StudyFacts) -> str:
    sums = total(facts)
    ended = sums.last_end if facts.state.startswith("finished") else None
    lines = [
        f"# Experiment: {escape(facts.name)}",
        *([escape(facts.description)] if facts.description else []),
        "\n".join(
            [
                f"- Id: {code(facts.name)}",
                f"- Started: {moment(sums.first_start)}",
                f"- Ended: {moment(ended)}",
                f"- Status: {facts.state} ({facts.count('done')} of {plural(len(facts.jobs), 'job')} done)",
                f"- Variants × seeds: {len(facts.variants)} × {len(facts.seeds)}",
                *([f"- Held: {held.in_words}"] if (held := gpu_hours(facts)) else []),
            ]
        ),
        "Generated from the files beside it by `tunestudy report`; every run of it replaces all but the text between "
        "lines marked `notes`.",
        block("purpose"),
    ]
    return "\n\n".join(lines)


def _environment(facts: StudyFacts) -> str:
    hosts = machines(facts)
    parts = ["## 1. Environment"]
    if not hosts:
        return f"{parts[0]}\n\nNot recorded yet: no job has started."
    rows = [
        (escape(host.host), host.jobs, escape(listing(host.gpus) or "none"), escape(f"{host.cpu} ({host.cores})"),
         size(host.memory_bytes), escape(host.os), escape(host.python))
        for host in hosts
    ]  # fmt: skip
    parts += ["### Hardware and system", table(("host", "jobs", "GPUs", "CPU", "memory", "system", "Python"), rows)]
    parts += ["### Software", _packages(hosts), "### Git state", "\n".join(_git(host) for host in hosts)]
    return "\n\n".join([*parts, block("environment")])


def _packages(hosts: list[Machine]) -> str:
    names = sorted({name for host in hosts for name in host.packages})
    rows = [(escape(name), *(escape(host.packages.get(name, MISSING)) for host in hosts)) for name in names]
    return table(("package", *(escape(host.host) for host in hosts)), rows, "No versions were recorded.")


def _git(host: Machine) -> str:
    if not host.git:
        return f"- {escape(host.host)}: not a git repository"
    dirty = {True: "uncommitted changes", False: "clean"}.get(host.git.get("dirty"), "unknown whether changed")  # type: ignore[arg-type]
    remote = f", remote {code(host.git['remote'])}" if host.git.get("remote") else ""
    commit = str(host.git.get("commit") or "unknown")[:12]
    return f"- {escape(host.host)}: branch {code(host.git.get('branch'))}, commit {code(commit)}, {dirty}{remote}"


def _config(facts: StudyFacts) -> str:
    """The settings that someone chose; all of them, defaults included, are in resolved.yaml."""
    model = {key: value for key, value in facts.model.items() if value not in (None, {}, False)}
    lines = [f"seeds: {list(facts.seeds)}", f"model: {setting(model)}", "variants:"]
    for name, variant in facts.variants.items():
        lines.append(f"  {name}:" + ("" if variant.stages else " the model as it is"))
        for stage, settings in variant.stages.items():
            lines.append(f"    {stage}:")
            lines += [f"      {key}: {setting(value)}" for key, value in not_default(settings).items()]
    where = "Key settings; the study as written is `study.yaml`, with every default `resolved.yaml`."
    return "\n\n".join(["## 2. Configuration", where, fenced("\n".join(lines), "yaml"), block("configuration")])


def _plan(facts: StudyFacts) -> str:
    rows = [_plan_row(number, job, facts) for number, job in enumerate(facts.jobs[:_MOST_JOBS], 1)]
    heads = ("#", "job", "variants", "seed", "depends on", "steps", "tokens", "status", "duration", "attempts")
    left = len(facts.jobs) - _MOST_JOBS
    more = [f"{left} more jobs: see `plan.json`."] if left > 0 else []
    orphans = [f"No longer part of the plan: {escape(listing(facts.orphans))}."] if facts.orphans else []
    ready = "\n".join(f"- [{'x' if done else ' '}] {escape(what)}" for done, what in checklist(facts))
    parts = ["## 3. Execution plan", table(heads, rows, "No job is planned yet."), *more, *orphans]
    tracked = ["### Experiments", tracking_table(facts)]
    if against := foreseen_table(facts):
        tracked += ["### Estimates against the truth", against]
    return "\n\n".join([*parts, *tracked, "### Readiness", ready, block("plan")])


def _plan_row(number: int, job: JobFacts, facts: StudyFacts) -> tuple[object, ...]:
    took = job.training.duration_s if job.training else None
    return (
        number,
        code(job.id) + (f" ({escape(what)})" if (what := kind_of_job(facts, job)) else ""),
        escape(listing(job.variants, 4)),
        job.seed,
        escape(listing([origin.text for origin in origins(facts, job)])) or MISSING,
        MISSING if job.planned_steps is None else job.planned_steps,
        short_count(job.planned_tokens),
        job.status,
        duration(took),
        facts.attempts(job) or MISSING,
    )


def _issues(facts: StudyFacts, headline: Headline) -> str:
    rows = [
        (number, moment(issue.when), code(issue.job), issue.attempt or MISSING,
         escape(f"{issue.kind}: {issue.message}"[:400]), MISSING if issue.step is None else issue.step,
         escape(issue.outcome), code(issue.log) if issue.log else MISSING)
        for number, issue in enumerate(problems(facts), 1)
    ]  # fmt: skip
    heads = ("#", "when", "job", "attempt", "what happened", "step", "what was done", "log")
    found = warnings_of(facts, headline)
    warned = "\n".join(f"- {escape(warning)}" for warning in found) or "Nothing to warn of."
    called = (
        "\n".join(f"- {moment(number(alert.get('t')))} {escape(line)}" for alert, line in alerts(facts))
        or "No alert was raised."
    )
    parts = ["## 5. Issues and resolutions", table(heads, rows, "No attempt failed."), "### Alerts", called]
    parts += ["### Warnings", warned]
    return "\n\n".join([*parts, block("issues")])


def _outputs(facts: StudyFacts) -> str:
    rows = []
    for variant in facts.variants:
        for job in facts.last_jobs(variant):
            best = next((f"`jobs/{job.id}/{c.name}`" for c in job.checkpoints if "best" in c.marks), MISSING)
            model = f"`jobs/{job.id}/model`" if job.has_model else MISSING
            rows.append((escape(variant), job.seed, model, best, f"`jobs/{job.id}/logs`"))
    files = [
        ("`report/index.html`", "the page: table, curves, costs, plan, environment"),
        ("`report/gallery.html`", "right and wrong samples with their images"),
        ("`report/results.csv`, `.md`, `.tex`", "the table for programs, documents and papers"),
        ("`report/results_samples.csv`", "intervals and tests over samples"),
        ("`plan.json`, `resolved.yaml`", "what was to run, with every setting"),
        ("`jobs/<job>/loss_log.csv`, `eval_log.csv`", "training and held-out loss by step"),
        ("`jobs/<job>/eval/`", "scores and every prediction"),
    ]
    if any(map(facts.is_gated, facts.variants)):
        files.append(("`jobs/<job>/sparsity_log.csv`", "share of gates at zero by step and module"))
    if any(job.merge_report for job in facts.jobs):
        files.append(
            ("`jobs/<job>/merge_report.json`, `model/merge.json`", "what was merged, and how far apart it lay")
        )
    if any(job.gate_log for job in facts.jobs):
        files.append(("`jobs/<job>/mole_log.csv`, `experts.json`", "gates of a mixture by step and block, its experts"))
    heads = ("variant", "seed", "model", "best checkpoint", "logs")
    results = table(heads, rows[:_MOST_JOBS], "Nothing was published yet.")
    return "\n\n".join(["## 6. Outputs", results, "### Files", table(("path", "holds"), files)])


def _summary(facts: StudyFacts, headline: Headline) -> str:
    seen = "\n".join(f"{number}. {escape(line)}" for number, line in enumerate(observations(facts, headline), 1))
    return "\n\n".join(
        [
            "## 7. Summary",
            "### Did it succeed?",
            _success(facts),
            "### Results",
            to_markdown(headline).strip().replace("### ", "#### ") or "This study has no benchmarks.",
            *sample_summary(facts, headline),
            *sparsity_summary(facts, headline),
            *merge_summary(facts),
            *mixture_summary(facts),
            "### Observations",
            seen or "None yet.",
            block("observations"),
            "### Next",
            fenced("\n".join(_next_commands(facts)), "sh"),
            block("next"),
        ]
    )


def _success(facts: StudyFacts) -> str:
    done = f"{facts.count('done')} of {plural(len(facts.jobs), 'job')} done"
    if facts.state == "finished":
        failed = len(problems(facts))
        return f"Yes: {done}" + (f", after {plural(failed, 'failed attempt')}." if failed else ".")
    if facts.count("failed"):
        names = listing([job.id for job in facts.jobs if job.status == "failed"])
        return f"Not fully: {done}, {facts.count('failed')} failed ({escape(names)})."
    return f"Not yet: {done}; the study is {facts.state}."


def _next_commands(facts: StudyFacts) -> list[str]:
    if facts.state == "finished":
        return [
            "tunestudy report study.yaml            # after any change of the report's settings",
            "tunestudy plan study.yaml              # what an edit or another seed would run",
        ]
    failed = [job for job in facts.jobs if job.status == "failed"]
    logs = [f"tunestudy logs study.yaml {job.id}" for job in failed[:3]]
    return [
        *logs,
        "tunestudy status study.yaml",
        "tunestudy run study.yaml               # does what is missing, nothing twice",
    ]
