"""Which store finds the shortlist of a search."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gare_cache.errors import ConfigError, counted, unknown_name
from gare_cache.project.progress import say
from gare_cache.search.faiss_store import open_faiss
from gare_cache.search.gallery import Gallery
from gare_cache.search.qdrant_store import open_qdrant
from gare_cache.search.store import ExactStore, Vectors, VectorStore

STORES = ("exact", "faiss", "qdrant")
# From this many videos on faiss is worth its index.
_MANY = 1_000_000


@dataclass(frozen=True)
class StoreChoice:
    """A store and its settings.

    Attributes:
        name: ``exact``, ``faiss`` or ``qdrant``.
        nprobe: of faiss: lists that a query looks into; None takes its default.
        url: of the Qdrant server.
    """

    name: str = "exact"
    nprobe: int | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if self.name not in STORES:
            raise ConfigError(unknown_name("index", self.name, STORES))
        if self.nprobe is not None and self.name != "faiss":
            raise ConfigError("--nprobe is a setting of --index faiss; leave it out, or name that")
        if self.nprobe is not None and self.nprobe < 1:
            raise ConfigError(f"--nprobe is {self.nprobe}; look into at least 1 list")
        if (self.url is not None) != (self.name == "qdrant"):
            raise ConfigError("--index qdrant and --qdrant URL belong together; give both")

    def open(self, vectors: Vectors, gallery: Gallery, place: Path, owner: str) -> VectorStore:
        """Return the store of a gallery, brought up to date.

        Args:
            vectors: (N, D) of the gallery's videos.
            gallery: the videos.
            place: folder of the vectors, named by cache and head.
            owner: id of the project, which keeps its collection from those of others that share
                the cache and the head.

        Raises:
            ConfigError: the store's package is not installed.
            EnvironmentFailure: its server does not answer.
        """
        if self.name == "faiss":
            rows = gallery.videos.rows.tolist()
            return open_faiss(vectors, rows, place, nprobe=self.nprobe)
        if self.name == "qdrant":
            key = f"{owner[:12]}-{place.name}"
            return open_qdrant(vectors, gallery.videos, key=key, url=str(self.url))
        if len(vectors) > _MANY:
            say(f"note: the gallery has {counted(len(vectors), 'video')}; --index faiss is faster")
        return ExactStore(vectors)
