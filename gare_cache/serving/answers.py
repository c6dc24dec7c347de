"""From requests to results: names to videos, the search, near duplicates."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch.nn import functional as F

from gare_cache.errors import ConfigError, GareCacheError, unknown_name
from gare_cache.project.progress import say
from gare_cache.search.gallery import Gallery
from gare_cache.search.hits import SearchHit, SearchResult
from gare_cache.search.query import Query, make_query
from gare_cache.search.searcher import Wanted
from gare_cache.serving.refusals import Refusal
from gare_cache.serving.runs import NO_ENCODER, Opened, ServedRun
from gare_cache.serving.schema import Hit, Results, SearchRequest

_A_PATH = re.compile(r"(?<![\w.])[/~\\]\S|\b[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        request: as it came.
        images: files of the example images that it names.
    """

    request: SearchRequest
    images: Sequence[Path] = ()


def answer_all(
    asked: Sequence[Asked], runs: Mapping[str, ServedRun], *, fold_above: float
) -> list[Results | Exception]:
    """Answer a batch; the sentences of all requests to a run are encoded at once.

    Args:
        asked: the requests; ``run`` of each is a key of ``runs``.
        runs: by name.
        fold_above: cosine above which two hits are the same.

    Returns:
        Results, or why there are none, in the order asked.
    """
    answers: dict[int, Results | Exception] = {}
    for name, run in runs.items():
        places = [place for place, one in enumerate(asked) if one.request.run == name]
        if places:
            of_run = _answer([asked[place] for place in places], run, fold_above)
            answers.update(zip(places, of_run, strict=True))
    return [answers[place] for place in range(len(asked))]


def _answer(
    asked: Sequence[Asked], run: ServedRun, fold_above: float
) -> Sequence[Results | Exception]:
    try:
        opened = run.current()
        meant = [_meant(one, opened) for one in asked]
        good = [one for one in meant if not isinstance(one, Refusal)]
        found = iter(opened.searcher.search_many(good) if good else [])
    except Refusal as refusal:
        return [refusal] * len(asked)
    except (GareCacheError, OSError) as err:
        return [_refusal(err, ())] * len(asked)
    answers: list[Results | Exception] = []
    for one, query in zip(asked, meant, strict=True):
        result = query if isinstance(query, Refusal) else next(found)
        if isinstance(result, SearchResult):
            answers.append(_results(run.name, opened, result, fold_above))
        elif isinstance(result, Refusal):
            answers.append(result)
        else:
            answers.append(_refusal(result, one.images))
    return answers


def _meant(asked: Asked, opened: Opened) -> tuple[Query, Wanted] | Refusal:
    request, catalogue = asked.request, opened.catalogue
    sentences = [request.query, *request.also, *request.without]
    if not opened.encodes and (asked.images or any(text.strip() for text in sentences)):
        return Refusal(422, NO_ENCODER)
    unknown = [key for key in request.like if key not in catalogue.entries]
    if unknown:
        return Refusal(404, "the example video is not in this gallery any more")
    if request.folder and request.folder not in catalogue.folders:
        return Refusal(422, unknown_name("folder", request.folder[:80], catalogue.folders))
    if request.split and request.split not in catalogue.splits:
        return Refusal(422, unknown_name("split", request.split[:80], catalogue.splits))
    try:
        query = make_query(
            request.query if request.query.strip() else None,
            also=request.also,
            without=request.without,
            images=asked.images,
            like=[catalogue.entries[key].video.video_id for key in request.like],
        )
        wanted = Wanted(
            top=request.top,
            ids=catalogue.below(request.folder) if request.folder else None,
            split=request.split or None,
            least_seconds=request.min_seconds,
            most_seconds=request.max_seconds,
        )
    except ConfigError as err:
        return Refusal(422, str(err))
    return query, wanted


def _refusal(err: Exception, images: Sequence[Path]) -> Refusal:
    """Return what a client is told of an error: a mistake of its own, without any path."""
    message = " ".join(str(err).split())
    for path in images:
        message = message.replace(str(path), "the image")
    if isinstance(err, ConfigError) and not _A_PATH.search(message):
        return Refusal(422, message)
    say(f"a search failed: {message}")
    return Refusal(500, "the search failed; the server's terminal says why")


def _results(run: str, opened: Opened, result: SearchResult, fold_above: float) -> Results:
    same = _same_as(opened.searcher.gallery, result.hits, fold_above)
    return Results(
        run=run,
        hits=[
            Hit(
                video=opened.catalogue.by_id[hit.video_id].shown(hit.best_time),
                rank=hit.rank,
                score=hit.score,
                percentile=hit.percentile,
                best_time=hit.best_time,
                start=hit.start,
                end=hit.end,
                same_as=same.get(hit.rank),
            )
            for hit in result.hits
        ],
        searched=result.searched,
        reranked=result.reranked,
        notes=list(result.notes),
    )


def _same_as(gallery: Gallery, hits: Sequence[SearchHit], above: float) -> dict[int, int]:
    """Return rank -> rank of the best hit whose mean frame has a cosine of more than ``above``."""
    places = [gallery.place_of[hit.video_id] for hit in hits]
    frames, mask = gallery.frames(places, gallery.cache.layout.max_frames)
    means = frames.sum(dim=1) / mask.sum(dim=1, keepdim=True)  # (K, D)
    means = F.normalize(means, dim=-1)
    equal = (means @ means.T > above).tolist()
    same: dict[int, int] = {}
    first: list[int] = []
    for place, hit in enumerate(hits):
        of = next((better for better in first if equal[place][better]), None)
        if of is None:
            first.append(place)
        else:
            same[hit.rank] = hits[of].rank
    return same
