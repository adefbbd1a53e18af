"""The page of `tunestudy data --html`: samples with their masks in colour, one file that needs no network."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from tunestudy.records.redact import redact_tree
from tunestudy.report.page import environment, policy, static


def render_data(facts: Mapping[str, Any]) -> str:
    """The whole page as text; everything that comes from data is escaped, and free of tokens."""
    style = static("report.css") + static("data.css")
    page = environment().get_template("data.html.jinja")
    shown = redact_tree(dict(facts))
    return page.render(facts=shown, style=Markup(style), policy=policy([style], []), unknown_in=unknown_in)


def unknown_in(source: Mapping[str, Any]) -> str:
    """How much of the text the tokenizer cannot tell apart."""
    share = f"{source['unknown'] / source['tokens']:.1%}"
    return (
        f"{source['unknown']:,} of {source['tokens']:,} tokens ({share}) are not in the tokenizer's vocabulary: the "
        "model reads one and the same token for all of them (`type: characters` knows its `alphabet:` alone)"
    )
