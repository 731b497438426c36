"""The application: a page from package files, and JSON over one run. No path of a request reaches the disk."""

from __future__ import annotations

import dataclasses
import html
import importlib.resources
import sqlite3
import threading
import tomllib
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tokay.decisions import by_hand_in_words
from tokay.errors import TokayError
from tokay.explore import browse
from tokay.explore.cache import connect, state_of
from tokay.explore.corpusmap import CorpusMap
from tokay.explore.decide import Desk, SaidDecision
from tokay.explore.fence import Fence, Session
from tokay.explore.searching import MOST, Search
from tokay.explore.shown import long
from tokay.explore.story import material_of, passage_at, place_of, rows_with, story_of
from tokay.report.page import visible
from tokay.serve.guard import Guard
from tokay.serve.metrics import Metrics
from tokay.serve.options import Options
from tokay.serve.reading import read
from tokay.serve.refusal import Refusal, in_json, response_to
from tokay.settings import ExampleSettings
from tokay.store import Run

OPTIONS = Options(max_body=64 * 1024)
PAGES = {"app.js": "text/javascript", "app.css": "text/css"}
STAGES = "corpus split generate vectors mine judge examples train evaluate model".split()


class Explorer:
    """A run as the page sees it.

    Args:
        run: open for reading.
        cache: of ``cache_of``.
    """

    def __init__(self, run: Run, cache: Path) -> None:
        self.run, self.cache = run, cache
        self.state = state_of(run)
        self.settings = example_settings(run)
        self._local = threading.local()
        self.desk = Desk(run, self.db)
        self.search = Search(run)
        self.map = CorpusMap(run, self.db)

    def db(self) -> sqlite3.Connection:
        """This thread's connection."""
        if not hasattr(self._local, "db"):
            self._local.db = connect(self.cache)
        found: sqlite3.Connection = self._local.db
        return found

    def about(self) -> dict[str, Any]:
        """What the run holds, and what of the page can be used."""
        run, db = self.run, self.db()
        verdict = run.read_json("evaluate", "verdict") if run.is_done("evaluate") else {}
        tables = ("passages", "queries", "pairs")
        counts = {table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        choices = self.desk.choices().values()
        return {
            "name": visible(run.path.absolute().name),
            "path": visible(str(run.path)),
            "verdict": visible(verdict.get("sentence", "")),
            "better": bool(verdict.get("better")),
            "by_hand": by_hand_in_words(verdict),
            "stages": {stage: run.is_done(stage) for stage in STAGES},
            "counts": {**counts, **self._more_counts(db)},
            "search": self.search.off,
            "map": self.map.off,
            "stale": state_of(run) != self.state,
            "decided": {
                "queries": len(choices),
                "rejected": sum(choice.rejected for choice in choices),
                "no longer fitting": self.desk.stale(),
            },
        }

    def _more_counts(self, db: sqlite3.Connection) -> dict[str, Any]:
        sums = {
            "judged": "best IS NOT NULL",
            "rows": "rows * (part = 'train')",
            "relabelled": "relabelled",
            "no row": "rows = 0",
        }
        columns = ", ".join(f'coalesce(sum({sum_of}), 0) AS "{name}"' for name, sum_of in sums.items())
        found = dict(db.execute(f"SELECT {columns} FROM queries").fetchone())
        grades = db.execute("SELECT grade, count(*) FROM pairs GROUP BY grade")
        return {**found, "grades": {"unjudged" if g is None else str(g): n for g, n in grades}}

    def passage(self, n: int, start: int) -> dict[str, Any]:
        """One passage, its text from ``start`` on."""
        passage = passage_at(self.db(), n)
        if passage is None:
            raise Refusal(404, f"there is no passage number {n} in this run")
        row = self.db().execute("SELECT * FROM passages WHERE n = ?", [n]).fetchone()
        uses = {name: row[name] for name in ("part", "seeds", "positives", "negatives")}
        return {"n": n, **place_of(passage), **uses, "text": long(passage.text, start)}

    def query(self, n: int) -> dict[str, Any]:
        """One query's page."""
        choice = self.desk.choice(n)
        material = material_of(self.db(), self.run, n, choice)
        if material is None:
            raise Refusal(404, f"there is no query number {n} in this run")
        story = story_of(material, self.settings, choice)
        decided = {"rejected": choice.rejected, "accepted": choice.accepted, "word": browse.in_a_word(choice)}
        held = material.trace.query.part in ("test", "seen")
        return {"n": n, **story, "decided": decided, "newest": self.desk.newest(n), "held_out": held}

    def decide(self, said: SaidDecision) -> dict[str, Any]:
        """Keep a decision; returns the query's page as it then is."""

        def positive() -> str:
            choice = self.desk.choice(said.query)
            material = material_of(self.db(), self.run, said.query, choice)
            taken_in = dataclasses.replace(choice, rejected=False)
            rows = rows_with(material, self.settings, taken_in) if material else []
            return rows[0].positive_id if rows else ""

        self.desk.decide(said, positive)
        return self.query(said.query)


def example_settings(run: Run) -> ExampleSettings:
    """The settings that the run's rows were made with."""
    path = run.path / "run.toml"
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8")).get("examples", {}) if path.is_file() else {}
        return ExampleSettings.model_validate(said)
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise TokayError(f"{path} is damaged ({str(error).splitlines()[0]}); 'tokay distill' writes it anew") from error


def make_app(explorer: Explorer, session: Session) -> FastAPI:
    """The ASGI application of one run and session."""
    app = FastAPI(title="tokay explore", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    folder = importlib.resources.files("tokay.explore") / "pages"
    files = {name: folder.joinpath(name).read_bytes() for name in PAGES}
    index = folder.joinpath("index.html").read_text(encoding="utf-8")
    title = html.escape(visible(explorer.run.path.absolute().name))
    index = index.replace("{title}", title).replace("{token}", session.token)

    @app.get("/")
    async def page() -> Response:
        return Response(index, media_type="text/html; charset=utf-8")

    for name, kind in PAGES.items():
        app.get(f"/{name}")(_file(files[name], f"{kind}; charset=utf-8"))

    @app.get("/api/run")
    def about() -> Response:
        return in_json(explorer.about())

    @app.get("/api/passages")
    def passages(request: Request) -> Response:
        asked = browse.read_filter(browse.PassageFilter, request.query_params)
        return in_json(browse.passages(explorer.db(), asked))

    @app.get("/api/passages/{n}")
    def passage(n: str, request: Request) -> Response:
        return in_json(explorer.passage(_number(n), _number(request.query_params.get("start", "0"))))

    @app.get("/api/documents")
    def documents(request: Request) -> Response:
        return in_json({"documents": browse.documents(explorer.db(), request.query_params.get("text", "")[:1000])})

    @app.get("/api/queries")
    def queries(request: Request) -> Response:
        asked = browse.read_filter(browse.QueryFilter, request.query_params)
        return in_json(browse.queries(explorer.db(), asked, explorer.desk.choices()))

    @app.get("/api/queries/{n}")
    def query(n: str) -> Response:
        return in_json(explorer.query(_number(n)))

    @app.get("/api/pairs")
    def pairs(request: Request) -> Response:
        asked = browse.read_filter(browse.PairFilter, request.query_params)
        return in_json(browse.pairs(explorer.db(), asked, explorer.desk.choices()))

    @app.get("/api/search")
    def search(request: Request) -> Response:
        said = request.query_params
        top = min(_number(said.get("top", "10")), MOST)
        return in_json(
            explorer.search.find(
                explorer.db(), said.get("text", "")[:10_000], top=max(1, top), hybrid=said.get("hybrid") == "1"
            )
        )

    @app.get("/api/map")
    def corpus_map() -> Response:
        return in_json(explorer.map.state())

    @app.get("/api/decisions")
    def decisions() -> Response:
        return in_json({"decisions": explorer.desk.listed(), "stale": explorer.desk.stale()})

    @app.post("/api/decisions")
    async def decide(request: Request) -> Response:
        said = read(SaidDecision, await request.body())
        return in_json(await run_in_threadpool(explorer.decide, said))

    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(TokayError, _unable)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Guard, options=OPTIONS, metrics=Metrics())
    app.add_middleware(Fence, session=session)  # the outermost: added last
    return app


def _file(content: bytes, kind: str) -> Any:
    async def file() -> Response:
        return Response(content, media_type=kind)

    return file


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Refusal(404, f"{visible(text[:40])!r} is no number; passages and queries have numbers from 0")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return response_to(request.url.path, error)


async def _unable(request: Request, error: Exception) -> Response:
    return response_to(request.url.path, Refusal(409, visible(str(error))))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = f"{request.method} {request.url.path}"
    what = f"there is no {words} here" if error.status_code in (404, 405) else f"{words}: {error.detail}"
    return response_to(request.url.path, Refusal(error.status_code, visible(what)))
