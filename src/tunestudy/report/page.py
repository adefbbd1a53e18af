"""index.html: one file that opens from disk and asks the network for nothing."""

import base64
import hashlib
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tunestudy.report import breakdown, plots
from tunestudy.report import format as words
from tunestudy.report.against import against_baseline, footnote, sentences
from tunestudy.report.compare import Cell, Headline
from tunestudy.report.cost import costs, total
from tunestudy.report.curves import (
    SPARSITY,
    as_json,
    charts_of,
    colour_of,
    curve_charts,
    make_views,
    points_per_line,
    score_charts,
)
from tunestudy.report.differences import differences
from tunestudy.report.facts import StudyFacts
from tunestudy.report.findings import SHORT_COUNTS, counted, problems, warnings_of
from tunestudy.report.foreseen import foreseen
from tunestudy.report.gpu_hours import gpu_hours
from tunestudy.report.lineage import kind_of_job, origins
from tunestudy.report.machines import machines
from tunestudy.report.merges import merges
from tunestudy.report.mixtures import mixtures
from tunestudy.report.observations import headline_sentence, observations
from tunestudy.report.overfit import RISE_FLAGGED, find_fits
from tunestudy.report.overlap import clean, cleaned
from tunestudy.report.overlap import compared as compared_sets
from tunestudy.report.sample_level import SMALL
from tunestudy.report.sources import realised, source_losses
from tunestudy.report.sparsity import FIRST, LAST, efficiencies, pictures, prunings
from tunestudy.report.strip import HEIGHT, WIDTH, scale_of, strip_of
from tunestudy.report.tables import explanation, mean_and_std, power_note
from tunestudy.report.timeline import timeline
from tunestudy.report.timeline_svg import draw
from tunestudy.report.tracking import experiments, whole_study

_HERE = Path(__file__).parent
_FILTERS = ("sig", "signed", "p_value", "count", "short_count", "duration", "moment", "memory_mb", "size", "percent")


def render_page(facts: StudyFacts, headline: Headline, *, has_gallery: bool = False) -> str:
    """The whole page as text. Everything that comes from files is escaped by jinja2 or by `embedded`."""
    views, charts = make_views(facts), charts_of(facts)
    scripts = [static("uPlot.iife.min.js"), static("report.js")] if views else []
    style = static("uPlot.min.css") + static("report.css")
    template = environment().get_template("report.html.jinja")
    return template.render(
        **page_facts(facts, headline),
        views=views,
        charts=curve_charts(facts),
        points_per_line=points_per_line(len(facts.jobs)),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        sparsity_chart=SPARSITY if SPARSITY in charts else None,
        score_charts=score_charts(facts) if views else [],
        has_gallery=has_gallery,
        data=embedded(as_json(views, charts)),
        policy=policy([style], scripts),
    )


def render_sections(facts: StudyFacts, headline: Headline, *, has_gallery: bool) -> str:
    """The sections that hold neither learning curves nor what ran where, for a page that shows those as they grow."""
    template = environment().get_template("sections.html.jinja")
    told = page_facts(facts, headline)
    return template.render(**told, views=[], sparsity_chart=None, score_charts=[], has_gallery=has_gallery)


def page_facts(facts: StudyFacts, headline: Headline) -> dict[str, Any]:
    """What the templates of the sections tell, learning curves left out."""
    compared = efficiencies(facts, headline)
    sentence = headline_sentence(facts, headline)
    against, overlaps = against_baseline(facts, headline), compared_sets(facts)
    colours = {variant: f"c{colour_of(place)}" for variant, place in facts.places.items()}
    times = timeline(facts)
    return {
        "facts": facts,
        "headline": headline,
        "sentence": sentence,
        "power": power_note(headline),
        "observations": [line for line in observations(facts, headline) if line != sentence],
        "against": against,
        "against_words": sentences(against),
        "against_footnote": footnote(against),
        "warnings": warnings_of(facts, headline),
        "problems": problems(facts),
        "benchmarks": [_benchmark(facts, headline, name) for name in facts.benchmarks],
        "explanation": explanation(headline),
        "fits": find_fits(facts),
        "rise_flagged": RISE_FLAGGED,
        "costs": costs(facts),
        "total": total(facts),
        "held": gpu_hours(facts),
        "overlaps": overlaps,
        "clean_sets": clean(overlaps),
        "cleaned": cleaned(facts),
        "experiments": [*experiments(facts), whole_study(facts)],
        "foreseen": foreseen(facts),
        "differences": differences(facts),
        "sources": realised(facts),
        "source_losses": source_losses(facts),
        "machines": machines(facts),
        "colours": colours,
        "timeline": draw(times, colours) if times else None,
        "timeline_words": times.text if times else "",
        "planned_known": bool(times and times.planned),
        "compared": compared,
        "pictures": list(pictures(facts, compared)),
        "prunings": prunings(facts),
        "merges": merges(facts),
        "mixtures": mixtures(facts),
        "origins": partial(origins, facts),
        "kind_of_job": partial(kind_of_job, facts),
    }


def _benchmark(facts: StudyFacts, headline: Headline, name: str) -> dict[str, Any]:
    """One table of results."""
    cells = headline.rows(name)
    scale = scale_of(cells, headline.baseline)
    baseline = next((cell.summary.mean for cell in cells if cell.variant == headline.baseline), None)
    scores = [job.scores[name] for job in facts.jobs if name in job.scores]
    return {
        "name": name,
        "metric": cells[0].metric,
        "direction": cells[0].direction,
        "rows": [(cell, strip_of(cell, scale, baseline) if scale else None) for cell in cells],
        "samples": {variant: headline.samples.get((variant, name)) for variant in facts.variants},
        "ways": _ways(headline, name),
        "counts": {variant: counted(facts, variant, name) for variant in facts.variants},
        "breakdowns": breakdown.breakdowns(facts, headline, name),
        "scale": scale,
        "baseline_shown": scale and baseline is not None and scale.beyond(baseline) == 0,
        "others": [cell for cell in headline.cells if cell.benchmark == name and not cell.primary],
        "settings": facts.benchmarks[name],
        "score": scores[0] if scores else None,
    }


def _ways(headline: Headline, name: str) -> dict[str, list[Cell]]:
    """By variant: the same score computed in other ways, where any result differs by it."""
    found: dict[str, list[Cell]] = {}
    for cell in headline.cells:
        if cell.benchmark == name and cell.way and cell.points:
            found.setdefault(cell.variant, []).append(cell)
    return found


def environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(words, name) for name in _FILTERS})
    environment.filters.update(setting=words.setting, listing=_listing, mean_and_std=mean_and_std)
    environment.globals.update(says=words, plural=words.plural, strip_width=WIDTH, strip_height=HEIGHT)
    environment.globals.update(frame=plots, bars_frame=breakdown, small=SMALL, first_pruned=FIRST, last_pruned=LAST)
    environment.globals.update(short_counts=SHORT_COUNTS)
    return environment


def _listing(items: Iterable[object], most: int = 8) -> str:
    return words.listing([str(item) for item in items], most)


def embedded(value: dict[str, object]) -> Markup:
    """JSON that nothing can break out of inside a script element, whatever names users chose."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def static(name: str) -> str:
    return (_HERE / "static" / name).read_text(encoding="utf-8")


def policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """Content security policy: our own scripts and styles by their hash, the icon, and nothing else from anywhere."""
    allowed = {"style-src": styles, "script-src": scripts}
    parts = [
        f"{name} {' '.join(_hash(text) for text in of) or chr(39) + 'none' + chr(39)}" for name, of in allowed.items()
    ]
    return "; ".join(["default-src 'none'", "img-src data:", *parts, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
