"""Encode a text-video-retrieval benchmark once; train, compare and explain heads from the cache.

In a program: ``run = gare_cache.load_run("outputs")`` (docs/api.md). torch and zarr are imported
on the first use of a public name.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gare_cache.api import Run, TopVideos, load_index, load_run
    from gare_cache.cache.loading import LoadedCache, load_cache
    from gare_cache.heads.pairs import PairScores
    from gare_cache.search.choice import StoreChoice
    from gare_cache.search.hits import SearchHit, SearchResult
    from gare_cache.search.query import make_query
    from gare_cache.search.searcher import Wanted

__version__ = "0.1.0"
__all__ = [
    "LoadedCache",
    "PairScores",
    "Run",
    "SearchHit",
    "SearchResult",
    "StoreChoice",
    "TopVideos",
    "Wanted",
    "__version__",
    "load_cache",
    "load_index",
    "load_run",
    "make_query",
]

_MODULES = {
    "LoadedCache": "gare_cache.cache.loading",
    "PairScores": "gare_cache.heads.pairs",
    "Run": "gare_cache.api",
    "SearchHit": "gare_cache.search.hits",
    "SearchResult": "gare_cache.search.hits",
    "StoreChoice": "gare_cache.search.choice",
    "TopVideos": "gare_cache.api",
    "Wanted": "gare_cache.search.searcher",
    "load_cache": "gare_cache.cache.loading",
    "load_index": "gare_cache.api",
    "load_run": "gare_cache.api",
    "make_query": "gare_cache.search.query",
}


_FORMER_NAMES = {"Found": "SearchHit"}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    name = _FORMER_NAMES.get(name, name)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
