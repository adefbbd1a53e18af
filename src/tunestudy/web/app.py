"""The addresses of the live page. All of them only read, and what they read lies in one study's folder."""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader
from starlette.applications import Starlette
from starlette.requests import Request as Asked
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tunestudy.report.curves import MOST_POINTS
from tunestudy.report.page import environment
from tunestudy.report.page import static as of_report
from tunestudy.web.curves import ALL, Request
from tunestudy.web.feed import Feed
from tunestudy.web.guard import Guard, Rules

_HERE = Path(__file__).parent
_OF_REPORT = ("uPlot.iife.min.js", "uPlot.min.css", "report.js", "report.css")
_OWN = ("live.js", "grid.js", "job.js", "slots.js", "live.css")
_TYPES = {".js": "text/javascript", ".css": "text/css"}


def make_app(feed: Feed, rules: Rules) -> ASGIApp:
    """The page of one study, guarded by `rules`."""
    routes = [
        Route("/", _page(feed)),
        Route("/index.html", _page(feed)),
        Route("/static/{name}", _static),
        Route("/data", _json(lambda asked: feed.data(asked.query_params.get("since", "")))),
        Route("/curves", _curves(feed)),
        Route("/job", _json(lambda asked: feed.job(asked.query_params.get("id", "")))),
        Route("/log", _json(lambda asked: _log(feed, asked))),
        Route("/sections", _json(lambda _: feed.sections())),
        Route("/gallery.html", _gallery(feed)),
    ]
    return Guard(Starlette(routes=routes), rules)


Answer = Callable[[Asked], Response]


def _page(feed: Feed) -> Answer:
    templates = environment()
    assert templates.loader is not None
    templates.loader = ChoiceLoader([FileSystemLoader(_HERE / "templates"), templates.loader])
    template = templates.get_template("live.html.jinja")

    def page(_: Asked) -> Response:
        return HTMLResponse(template.render(name=feed.name(), charts=ALL, points_per_line=MOST_POINTS))

    return page


def _static(asked: Asked) -> Response:
    name = asked.path_params["name"]
    if name in _OWN:
        text = (_HERE / "static" / name).read_text(encoding="utf-8")
    elif name in _OF_REPORT:
        text = of_report(name)
    else:
        return PlainTextResponse("there is no such file\n", 404)
    return Response(text, media_type=_TYPES[Path(name).suffix])


def _json(answer: Callable[[Asked], dict[str, Any] | None]) -> Answer:
    def respond(asked: Asked) -> Response:
        told = answer(asked)
        missing = PlainTextResponse("no such job or log: it may have been cleaned away\n", 404)
        return missing if told is None else JSONResponse(told)

    return respond


def _curves(feed: Feed) -> Answer:
    """With an ETag: lines in which nothing is new are not sent again."""

    def curves(asked: Asked) -> Response:
        answer = JSONResponse(feed.curves(_request(asked)))
        tag = f'"{zlib.crc32(answer.body):08x}-{len(answer.body)}"'
        headers = {"ETag": tag}
        if asked.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        answer.headers.update(headers)
        return answer

    return curves


def _request(asked: Asked) -> Request:
    chosen = asked.query_params.getlist("variant")
    return Request(view=asked.query_params.get("view", "trial"), variants=tuple(chosen))


def _log(feed: Feed, asked: Asked) -> dict[str, Any] | None:
    start = asked.query_params.get("from", "")
    job, name = asked.query_params.get("id", ""), asked.query_params.get("name", "")
    return feed.log(job, name, int(start) if start.isdecimal() and len(start) < 19 else None)


def _gallery(feed: Feed) -> Answer:
    def gallery(_: Asked) -> Response:
        made = feed.maker.latest
        if not made.gallery:
            return PlainTextResponse("no benchmark has answers to show yet\n", 404)
        return HTMLResponse(made.gallery, headers={"Content-Security-Policy": made.gallery_policy})

    return gallery
