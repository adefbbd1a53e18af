"""gallery.html: one file beside index.html, with every image inside. All samples are in the page; a script hides."""

from markupsafe import Markup

from tunestudy.report.compare import Headline
from tunestudy.report.curves import colour_of
from tunestudy.report.facts import StudyFacts
from tunestudy.report.gallery import galleries
from tunestudy.report.page import environment, policy, static


def render_gallery(facts: StudyFacts, headline: Headline) -> str | None:
    """The whole page as text; None when no benchmark has predictions to show."""
    shelves = galleries(facts, headline)
    if not any(shelf.cards for shelf in shelves):
        return None
    style, script = _style_and_script()
    categories = list(dict.fromkeys(pair for shelf in shelves for pair in shelf.categories))
    return (
        environment()
        .get_template("gallery.html.jinja")
        .render(
            facts=facts,
            shelves=shelves,
            numbers={pair: str(number) for number, pair in enumerate(categories)},
            variants=[
                name for name in facts.variants if any(name == s.variant for f in shelves for s in f.cards[0].said)
            ],
            colours={variant: f"c{colour_of(place)}" for variant, place in facts.places.items()},
            style=Markup(style),
            script=Markup(script),
            policy=gallery_policy(),
        )
    )


def gallery_policy() -> str:
    """The page's content security policy, for a server that sends one as well."""
    style, script = _style_and_script()
    return policy([style], [script])


def _style_and_script() -> tuple[str, str]:
    return static("report.css") + static("gallery.css"), static("gallery.js")
