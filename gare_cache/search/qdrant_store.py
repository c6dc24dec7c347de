"""A store on a Qdrant server, for galleries that outgrow one machine."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.heads.scoring import blocks
from gare_cache.project.progress import progress
from gare_cache.search.gallery import GalleryVideo
from gare_cache.search.store import Mask, Shortlist, Vectors, places_of, stamps

KEY_VARIABLE = "QDRANT_API_KEY"
_UPSERTED = 1024  # points a request
_SCROLLED = 10_000


class QdrantStore:
    """A collection with one point a video; its ids are the rows of the cache."""

    def __init__(
        self, client: Any, collection: str, videos: Sequence[GalleryVideo], url: str
    ) -> None:
        """Keep a collection that ``open_qdrant`` brought up to date.

        Args:
            client: of the server.
            collection: its name.
            videos: of the gallery.
            url: of the server, for messages.
        """
        self._client = client
        self._collection = collection
        self._url = url
        self._rows = np.array([video.row for video in videos], np.int64)
        self._splits = np.array([video.split for video in videos])

    identity = "qdrant"

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self._rows)

    def nearest(
        self, queries: npt.NDArray[np.float32], count: int, allowed: Mask | None = None
    ) -> Shortlist:
        """Return the nearest vectors as the server finds them; see ``VectorStore``.

        Raises:
            EnvironmentFailure: the server does not answer.
        """
        from qdrant_client import models

        count = min(count, len(self))
        rows = np.full((len(queries), count), -1, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        chosen = None if allowed is None else self._filter(allowed)
        requests = [
            models.QueryRequest(query=query.tolist(), filter=chosen, limit=count)
            for query in np.asarray(queries, np.float32)
        ]
        with _answers(self._url):
            found = self._client.query_batch_points(self._collection, requests=requests)
        for place, response in enumerate(found):
            ids = np.array([point.id for point in response.points], np.int64)
            rows[place, : len(ids)] = places_of(ids, self._rows)
            scores[place, : len(ids)] = [point.score for point in response.points]
        return Shortlist(rows, scores)

    def _filter(self, allowed: Mask) -> Any:
        """Return the shorter of two filters: the allowed points, or a split without the others."""
        from qdrant_client import models

        def ids(mask: Mask) -> Any:
            return models.HasIdCondition(has_id=self._rows[mask].tolist())

        splits = np.unique(self._splits[allowed]).tolist()
        others = np.isin(self._splits, splits) & ~allowed
        if allowed.sum() <= others.sum():
            return models.Filter(must=[ids(allowed)])
        match = models.FieldCondition(key="split", match=models.MatchAny(any=splits))
        return models.Filter(must=[match], must_not=[ids(others)] if others.any() else None)


def open_qdrant(
    vectors: Vectors,
    videos: Sequence[GalleryVideo],
    *,
    key: str,
    url: str,
    client: Any = None,
) -> QdrantStore:
    """Return a gallery's collection ``gare-KEY``, made or brought up to date.

    Points carry ``video_id``, ``split`` and ``row``, and a ``stamp`` of these and the vector, by
    which changed points are found: all ids and stamps of the collection are read. Points of videos
    that left the gallery are deleted.

    Args:
        vectors: (N, D) of length 1.
        videos: of the gallery, one a vector.
        key: of the project, the cache and the head.
        url: of the server; its key is taken from the environment, ``QDRANT_API_KEY``.
        client: of the server; None connects to ``url``.

    Raises:
        ConfigError: qdrant-client is not installed, or ``url`` is none.
        EnvironmentFailure: the server does not answer, or refuses.
    """
    qdrant = _import()
    with _answers(url):
        client = client or _connect(qdrant, url)
        collection = f"gare-{key}"
        if not client.collection_exists(collection):
            size = vectors.shape[1]
            params = qdrant.models.VectorParams(size=size, distance=qdrant.models.Distance.DOT)
            client.create_collection(collection, vectors_config=params)
            schema = qdrant.models.PayloadSchemaType.KEYWORD
            client.create_payload_index(collection, "split", field_schema=schema)
        _bring_up_to_date(qdrant.models, client, collection, vectors, videos)
    return QdrantStore(client, collection, videos, url)


def _bring_up_to_date(
    models: Any, client: Any, collection: str, vectors: Vectors, videos: Sequence[GalleryVideo]
) -> None:
    wanted = _stamps(vectors, videos)
    known = dict(_stored(client, collection))
    gone = [row for row in known if row not in wanted]
    for part in blocks(len(gone), _SCROLLED):
        client.delete(collection, models.PointIdsList(points=gone[part]), wait=True)
    new = [place for place, video in enumerate(videos) if known.get(video.row) != wanted[video.row]]
    if not new:
        return
    with progress("points of the Qdrant collection", len(new)) as advance:
        for part in blocks(len(new), _UPSERTED):
            places = new[part]
            points = [
                models.PointStruct(
                    id=videos[place].row,
                    vector=vector,
                    payload={
                        "video_id": videos[place].video_id,
                        "split": videos[place].split,
                        "row": videos[place].row,
                        "stamp": wanted[videos[place].row],
                    },
                )
                for place, vector in zip(
                    places, np.asarray(vectors[places], np.float32).tolist(), strict=True
                )
            ]
            client.upsert(collection, points, wait=True)
            advance(len(places))


def _stored(client: Any, collection: str) -> Iterator[tuple[int, int | None]]:
    """Yield the ids and stamps of a collection."""
    offset = None
    while True:
        points, offset = client.scroll(
            collection,
            limit=_SCROLLED,
            offset=offset,
            with_payload=["stamp"],
            with_vectors=False,
        )
        yield from ((point.id, (point.payload or {}).get("stamp")) for point in points)
        if offset is None:
            return


def _stamps(vectors: Vectors, videos: Sequence[GalleryVideo]) -> dict[int, int]:
    """Return by row a number of 32 bits for the content of its point."""
    return {
        video.row: zlib.crc32(f"{video.video_id}\0{video.split}\0{stamp}".encode())
        for video, stamp in zip(videos, stamps(vectors).tolist(), strict=True)
    }


def _import() -> Any:
    try:
        import qdrant_client
    except ImportError as err:
        raise ConfigError(
            "--index qdrant needs the package qdrant-client: pip install 'gare-cache[qdrant]'"
        ) from err
    return qdrant_client


def _connect(qdrant: Any, url: str) -> Any:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"{url!r} is no URL of a server; give one such as http://localhost:6333")
    return qdrant.QdrantClient(
        url=url,
        api_key=os.environ.get(KEY_VARIABLE),
        timeout=60,
        check_compatibility=False,  # it would ask a server that is not there, and warn
    )


@contextmanager
def _answers(url: str) -> Iterator[None]:
    """Turn the client's errors into one line."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except ResponseHandlingException as err:
        raise EnvironmentFailure(
            f"the Qdrant server at {url} does not answer ({err}); start it, or correct --qdrant"
        ) from err
    except UnexpectedResponse as err:
        said = " ".join(err.content.decode(errors="replace").split())
        raise EnvironmentFailure(
            f"the Qdrant server at {url} refuses with status {err.status_code}: {said:.300}"
        ) from err
