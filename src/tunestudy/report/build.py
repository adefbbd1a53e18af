"""`tunestudy report`: from a run directory to report/index.html, gallery.html, results.csv/.md/.tex and EXPERIMENT.md.

Reads job directories and nothing else, so it works on a study that is running, failed, or was copied from elsewhere.
"""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from tunestudy.config.errors import Exit, StudyError
from tunestudy.config.study import ReportSettings
from tunestudy.records.atomic import write_text
from tunestudy.records.layout import StudyDir
from tunestudy.records.lease import STALE_S, Lease, LeaseHeldError
from tunestudy.records.redact import redact
from tunestudy.records.space import free_text
from tunestudy.report.collect import collect
from tunestudy.report.compare import Headline, make_headline
from tunestudy.report.experiment import render_experiment
from tunestudy.report.facts import StudyFacts
from tunestudy.report.findings import broken_requirements
from tunestudy.report.format import plural
from tunestudy.report.gallery_page import render_gallery
from tunestudy.report.notes import keep_notes
from tunestudy.report.page import render_page
from tunestudy.report.tables import explanation, power_note, samples_csv, to_csv, to_latex, to_markdown, to_terminal

_WIDTH_WITHOUT_TERMINAL = 120
_UNTOLD_S = 3.0
_WAIT_S = STALE_S + 20.0
"""For who writes the report already. One on another machine that was killed counts as dead before that."""


class ReportBusyError(StudyError):
    """Another process writes the report, and does not come to its end."""

    def __init__(self, study_dir: StudyDir, held: LeaseHeldError) -> None:
        cause = f"{held.holder} is writing the report; when that is done, `tunestudy report` writes it anew"
        super().__init__(str(study_dir.report), cause, exit_code=Exit.PREFLIGHT_REFUSED)


def build_report(study_dir: StudyDir, *, quiet: bool = False, settings: ReportSettings | None = None) -> Exit:
    """Write every form of the report, print the table and where the page is; `quiet`: only what was not met.

    `settings`: how results are compared, in place of what the study said when it ran: another baseline, say.
    Returns JOBS_FAILED when a condition of `report.require` does not hold, else DONE: also for a study that has not
    finished, since its report says so. Raises StudyError when there is no such results folder or it cannot be written.
    """
    if not study_dir.root.is_dir():
        raise StudyError(str(study_dir.root), "there is no such results folder; run the study first, or give --results")
    with _one_at_a_time(study_dir):
        facts = collect(study_dir)
        if settings is not None:
            facts = replace(facts, report=settings.model_dump(mode="json"))
        headline = make_headline(facts)
        try:
            _write(study_dir, facts, headline)
        except OSError as error:
            raise _not_writable(study_dir, error) from error
    broken = broken_requirements(facts, headline)
    if quiet:
        _print_broken(broken, _console())
    else:
        _print(study_dir, facts, headline, broken)
    return Exit.JOBS_FAILED if broken else Exit.DONE


@contextlib.contextmanager
def _one_at_a_time(study_dir: StudyDir) -> Iterator[None]:
    """Who looks later writes later, so that the last report tells the latest; and of the notes in EXPERIMENT.md none is
    told from what another one generates just then."""
    try:
        lease = _lease_of_report(study_dir)
    except LeaseHeldError as held:
        raise ReportBusyError(study_dir, held) from held
    except OSError as error:
        raise _not_writable(study_dir, error) from error
    with lease:
        yield


def _lease_of_report(study_dir: StudyDir) -> Lease:
    path = study_dir.leases / "report"
    try:
        return Lease.acquire(path, wait_s=_UNTOLD_S)
    except LeaseHeldError as held:
        print(f"{held.holder} is writing the report; waiting for it …", file=sys.stderr, flush=True)
        return Lease.acquire(path, wait_s=_WAIT_S)


def _not_writable(study_dir: StudyDir, error: OSError) -> StudyError:
    cause = f"the report cannot be written: {error.strerror}, {free_text(study_dir.root)}; "
    cause += "when that is mended, `tunestudy report` writes it"
    return StudyError(str(study_dir.report), cause, exit_code=Exit.PREFLIGHT_REFUSED)


def _write(study_dir: StudyDir, facts: StudyFacts, headline: Headline) -> None:
    write_text(study_dir.report_table, to_csv(headline))
    write_text(study_dir.report / "results_samples.csv", samples_csv(headline))
    write_text(study_dir.report / "results.md", to_markdown(headline))
    write_text(study_dir.report / "results.tex", to_latex(headline))
    gallery = render_gallery(facts, headline)
    if gallery is not None:
        write_text(study_dir.report / "gallery.html", gallery)
    else:
        (study_dir.report / "gallery.html").unlink(missing_ok=True)
    write_text(study_dir.report_page, render_page(facts, headline, has_gallery=gallery is not None))
    _write_experiment(study_dir, render_experiment(facts, headline))


def _write_experiment(study_dir: StudyDir, document: str) -> None:
    """Replace EXPERIMENT.md, keeping what people wrote.

    The copy of what is generated is written before and after, so that a kill in between leaves no line unaccounted for.
    """
    copy = study_dir.report / ".experiment-generated.md"
    generated, old = _read(copy), redact(_read(study_dir.experiment_md))
    write_text(copy, f"{generated}\n{document}")
    write_text(study_dir.experiment_md, keep_notes(document, old, generated))
    write_text(copy, document)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _print(study_dir: StudyDir, facts: StudyFacts, headline: Headline, broken: list[str]) -> None:
    console = _console()
    for table in to_terminal(headline):
        console.print(table)
        console.print()
    for sentence in filter(None, [*explanation(headline), power_note(headline)]):
        console.print(sentence, style="dim", markup=False)
    left = len(facts.jobs) - facts.count("done")
    if left:
        console.print(f"{plural(left, 'job')} of {len(facts.jobs)} not done: numbers may still change", style="yellow")
    _print_broken(broken, console)
    console.print(f"report: {study_dir.report_page}", markup=False, soft_wrap=True)


def _print_broken(broken: list[str], console: Console) -> None:
    for line in broken:
        console.print(f"not met: {line}", style="red", markup=False)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
