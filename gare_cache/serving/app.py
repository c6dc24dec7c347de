"""The app: page, API, and the table of both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from gare_cache import __version__
from gare_cache.project.progress import say
from gare_cache.serving.access import Guard, client_of
from gare_cache.serving.answers import Asked, answer_all
from gare_cache.serving.batching import Batcher
from gare_cache.serving.catalogue import Entry
from gare_cache.serving.images import ExampleImages
from gare_cache.serving.limits import ClientRate, read_body
from gare_cache.serving.openapi import Endpoint, openapi
from gare_cache.serving.refusals import Refusal, of_status
from gare_cache.serving.runs import NO_ENCODER, ServedRun
from gare_cache.serving.schema import (
    IMAGE_BYTES,
    MOST_CHARACTERS,
    MOST_FOLDERS,
    MOST_SECONDS,
    MOST_TOP,
    SEARCH_BYTES,
    Example,
    Info,
    Results,
    RunInfo,
    SearchRequest,
    Video,
)
from gare_cache.serving.thumbnails import MomentThumbnails

_PAGES = Path(__file__).parent / "pages"
_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js", "/icon.svg": "icon.svg"}
_KEPT = {"Cache-Control": "private, max-age=300"}
_FRESH = {"Cache-Control": "no-store"}


@dataclass(frozen=True)
class Serving:
    """How requests are taken.

    Attributes:
        token: that clients must give; None on loopback.
        rate: searches and images a second of one client; 0 is no limit.
        fold_above: cosine of two videos' mean frames above which they are shown as one.
        most_waiting: searches that may wait; others are refused with 503.
        most_at_once: searches answered in one batch.
        most_uploads: images that may arrive at the same time.
        search_seconds: that a search may take, waiting included.
    """

    token: str | None = None
    rate: float = 20.0
    fold_above: float = 0.99
    most_waiting: int = 64
    most_at_once: int = 16
    most_uploads: int = 4
    search_seconds: float = 30.0


@dataclass(frozen=True, eq=False)
class _Desk:
    """Answers the requests of an app."""

    project: str
    runs: Mapping[str, ServedRun]
    serving: Serving
    batcher: Batcher[Asked, Results]
    images: ExampleImages
    thumbnails: MomentThumbnails
    rate: ClientRate
    uploads: set[int] = field(default_factory=set)

    async def info(self, request: Request) -> Response:
        opened = [(name, run.opened) for name, run in self.runs.items()]
        first = opened[0][1]
        info = Info(
            project=self.project,
            version=__version__,
            videos=len(first.catalogue.entries),
            failed=first.searcher.gallery.failed,
            runs=[
                RunInfo(name=name, videos=len(of.catalogue.entries), head=of.head)
                for name, of in opened
            ],
            splits=list(first.catalogue.splits),
            folders=list(first.catalogue.folders[:MOST_FOLDERS]),
            suggestions=list(first.catalogue.suggestions()),
            encodes=first.encodes,
            encoder_note="" if first.encodes else f"{NO_ENCODER.capitalize()}.",
            examples=[] if first.encodes else first.catalogue.examples(),
            fold_above=self.serving.fold_above,
            image_bytes=IMAGE_BYTES,
            query_characters=MOST_CHARACTERS,
            most_top=MOST_TOP,
        )
        return JSONResponse(info.model_dump(), headers=_FRESH)

    async def search(self, request: Request) -> Response:
        self.rate.take(client_of(request))
        _require_type(request, "application/json")
        asked = _search_request(await read_body(request, SEARCH_BYTES))
        run = asked.run or next(iter(self.runs))
        if run not in self.runs:
            raise Refusal(422, f"there is no run of this name; known: {', '.join(self.runs)}")
        images = [self.images.path(key) for key in asked.images]
        asked = asked.model_copy(update={"run": run})
        results = await self.batcher.ask(Asked(asked, images))
        return JSONResponse(results.model_dump(), headers=_FRESH)

    async def example(self, request: Request) -> Response:
        self.rate.take(client_of(request))
        if len(self.uploads) >= self.serving.most_uploads:
            raise Refusal(503, "too many images arrive at once; try again", retry_after=1)
        self.uploads.add(id(request))
        try:
            content = await read_body(request, IMAGE_BYTES)
            example = await run_in_threadpool(self.images.add, content)
        finally:
            self.uploads.discard(id(request))
        return JSONResponse(example.model_dump(), 201, headers=_FRESH)

    async def video(self, request: Request) -> Response:
        shown = await run_in_threadpool(self._entry(request).shown)
        return JSONResponse(shown.model_dump(), headers=_FRESH)

    async def thumbnail(self, request: Request) -> Response:
        entry, at = self._entry(request), request.query_params.get("at")
        if at is not None:
            picture = await self.thumbnails.picture(entry.video, _seconds(at))
            if picture is not None:
                return Response(picture, media_type="image/jpeg", headers=_KEPT)
        headers = _KEPT if at is None else _FRESH
        return _file(entry.thumbnail, "the video has no picture", "image/jpeg", headers)

    async def file(self, request: Request) -> Response:
        entry = self._entry(request)
        gone = "the file of this video was moved or deleted after it was indexed"
        if entry.video.path is None:
            raise Refusal(404, "the features of this video were imported without its file")
        return _file(entry.video.path, gone)

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi(ENDPOINTS, __version__))

    async def page(self, request: Request) -> Response:
        file = _PAGES / _FILES[request.url.path]
        return FileResponse(file, headers={"Cache-Control": "no-cache"})

    def _entry(self, request: Request) -> Entry:
        key = request.path_params["key"]
        for run in self.runs.values():
            entry = run.opened.catalogue.entries.get(key)
            if entry is not None:
                return entry
        raise Refusal(404, "this gallery has no such video (any more); search again")


ENDPOINTS = (
    Endpoint("get", "/api/info", "info", "What is served.", Info),
    Endpoint(
        *("post", "/api/search", "search", "Search for the moments that match a query.", Results),
        body=SearchRequest,
        faults=(400, 404, 408, 413, 415, 422, 429, 500, 503),
    ),
    Endpoint(
        *("post", "/api/examples", "example", "Keep an image to search for.", Example),
        status=201,
        body="image/*",
        faults=(400, 408, 413, 415, 429, 503),
    ),
    Endpoint("get", "/api/videos/{key}", "video", "A video.", Video, faults=(404,)),
    Endpoint(
        *("get", "/api/videos/{key}/thumbnail", "thumbnail", "Its picture.", "image/jpeg"),
        query={"at": "seconds in the file that it shows, in steps of 0.1; else its middle"},
        faults=(404, 422),
    ),
    Endpoint(
        *("get", "/api/videos/{key}/file", "file", "Its file, or ranges of it.", "video/*"),
        faults=(404,),
        ranges=True,
    ),
    Endpoint("get", "/api/openapi.json", "openapi", "This description.", "application/json"),
)


def make_app(project: str, runs: Sequence[ServedRun], serving: Serving | None = None) -> ASGIApp:
    """Return the app that serves runs.

    Args:
        project: its name, as it is shown.
        runs: what ranks; the first if a request names none.
        serving: how requests are taken.
    """
    serving = serving or Serving()
    named = {run.name: run for run in runs}
    searcher = runs[0].opened.searcher
    batcher: Batcher[Asked, Results] = Batcher(
        lambda asked: answer_all(asked, named, fold_above=serving.fold_above),
        most_waiting=serving.most_waiting,
        most_at_once=serving.most_at_once,
        seconds=serving.search_seconds,
    )
    images = ExampleImages(searcher.most_pixels)
    thumbnails = MomentThumbnails(searcher.most_pixels)
    desk = _Desk(project, named, serving, batcher, images, thumbnails, ClientRate(serving.rate))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        answering = asyncio.create_task(batcher.run())
        try:
            yield
        finally:
            answering.cancel()
            batcher.close()
            images.close()
            thumbnails.close()

    routes = [
        Route(of.path, _refusing(getattr(desk, of.name)), methods=[of.method.upper()])
        for of in ENDPOINTS
    ]
    routes += [Route(path, desk.page) for path in _FILES]
    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _no_route, Exception: _failed},
    )
    app.router.redirect_slashes = False
    return Guard(app, token=serving.token, rate=desk.rate)


Handler = Callable[[Request], Awaitable[Response]]


def _refusing(handler: Handler) -> Handler:
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except Refusal as refusal:
            return refusal.response({"Connection": "close"} if refusal.status in (408, 413) else {})

    return answered


async def _no_route(request: Request, err: Exception) -> Response:
    return of_status(err.status_code if isinstance(err, HTTPException) else 500).response()


async def _failed(request: Request, err: Exception) -> Response:
    say(f"a request failed: {type(err).__name__}: {err}")
    return Refusal(500, "the request failed; the server's terminal says why").response()


def _require_type(request: Request, wanted: str) -> None:
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Refusal(415, f"the body must be {wanted}; say so in Content-Type")


def _search_request(body: bytes) -> SearchRequest:
    try:
        return SearchRequest.model_validate_json(body)
    except ValidationError as err:
        first: Any = err.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:80]
        raise Refusal(422, f"{place or 'the body'}: {first['msg'][:200]}") from err


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_SECONDS:  # nor NaN
        raise Refusal(422, f"at: give the seconds in the file, from 0 to {MOST_SECONDS:,.0f}")
    return seconds


def _file(
    path: Path,
    gone: str,
    media_type: str | None = None,
    headers: Mapping[str, str] = _KEPT,
) -> Response:
    try:
        stat = path.stat()
    except OSError as err:
        raise Refusal(404, gone) from err
    if not path.is_file():
        raise Refusal(404, gone)
    return FileResponse(path, media_type=media_type, stat_result=stat, headers=headers)
