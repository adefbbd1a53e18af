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
    return page.render(facts=redact_tree(dict(facts)), style=Markup(style), policy=policy([style], []))
