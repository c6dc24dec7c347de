"""The Qdrant store against the client's own local mode, which has the server's interface."""

import dataclasses
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from gare_cache.errors import ConfigError, EnvironmentFailure
from gare_cache.search.gallery import GalleryVideo
from gare_cache.search.qdrant_store import QdrantStore, open_qdrant
from gare_cache.search.store import ExactStore, Vectors
from tests.search.test_store import unit

qdrant_client = pytest.importorskip("qdrant_client")

SPLITS = ("train", "train", "val", "test")
VECTORS = unit((120, 16), 0)
VIDEOS = [
    GalleryVideo(f"v{place}", 1000 - 3 * place, SPLITS[place % 4], None, 0.0, None)
    for place in range(120)
]


class Counting:
    """A client that counts the points it is sent."""

    def __init__(self) -> None:
        self.inner = qdrant_client.QdrantClient(":memory:")
        self.upserted = 0

    def upsert(self, collection: str, points: Sequence[Any], **options: Any) -> Any:
        self.upserted += len(points)
        return self.inner.upsert(collection, points, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.fixture
def client() -> Iterator[Counting]:
    client = Counting()
    yield client
    client.inner.close()


def open_(client: Counting, vectors: Vectors, videos: Sequence[GalleryVideo]) -> QdrantStore:
    return open_qdrant(vectors, videos, key="abc", url="http://server", client=client)


def same(store: QdrantStore, vectors: Vectors, allowed: np.ndarray | None = None) -> None:
    queries = unit((3, 16), 9).astype(np.float32)
    found = store.nearest(queries, 12, allowed)
    expected = ExactStore(vectors).nearest(queries, 12, allowed)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
class TestCollection:
    def test_it_finds_the_nearest(self, client: Counting) -> None:
        same(open_(client, VECTORS, VIDEOS), VECTORS)
        (point,) = client.retrieve("gare-abc", [997])
        assert {name: point.payload[name] for name in ("video_id", "split", "row")} == {
            "video_id": "v1",
            "split": "train",
            "row": 997,
        }

    @pytest.mark.parametrize("kind", ["split", "split but one", "few", "none"])
    def test_only_allowed_points_are_found(self, client: Counting, kind: str) -> None:
        allowed = np.array([video.split == "train" for video in VIDEOS])
        if kind == "split but one":
            allowed[4] = False
        elif kind != "split":
            allowed[:] = False
            allowed[[3, 8, 50]] = kind == "few"
        same(open_(client, VECTORS, VIDEOS), VECTORS, allowed)

    def test_a_split_is_filtered_by_the_payload(self, client: Counting) -> None:
        store = open_(client, VECTORS, VIDEOS)
        chosen = store._filter(np.array([video.split == "train" for video in VIDEOS]))
        assert chosen.must[0].match.any == ["train"]
        assert chosen.must_not is None

    def test_only_new_and_changed_points_are_sent(self, client: Counting) -> None:
        open_(client, VECTORS[:100], VIDEOS[:100])
        assert client.upserted == 100
        same(open_(client, VECTORS, VIDEOS), VECTORS)
        assert client.upserted == 120
        moved = [dataclasses.replace(VIDEOS[0], split="test"), *VIDEOS[1:]]
        changed = VECTORS.copy()
        changed[5] = unit((1, 16), 3)[0]
        same(open_(client, changed, moved), changed)
        assert client.upserted == 122

    def test_points_of_removed_videos_are_deleted(self, client: Counting) -> None:
        open_(client, VECTORS, VIDEOS)
        same(open_(client, VECTORS[20:], VIDEOS[20:]), VECTORS[20:])
        assert client.count("gare-abc").count == 100
        assert client.upserted == 120


def test_a_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(EnvironmentFailure, match=f"server at {url} does not answer"):
        open_qdrant(VECTORS, VIDEOS, key="abc", url=url)


def test_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="'here' is no URL"):
        open_qdrant(VECTORS, VIDEOS, key="abc", url="here")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(ConfigError, match=r"pip install 'gare-cache\[qdrant\]'"):
        open_qdrant(VECTORS, VIDEOS, key="abc", url="http://server")
