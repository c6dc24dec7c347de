"""Encode a text-video-retrieval benchmark once; train, compare and explain heads from the cache.

In a program: ``run = gare_cache.load_run("outputs")`` (docs/api.md). Nothing heavy is imported
until such a name is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gare_cache.api import Found, Run, load_run
    from gare_cache.cache.loading import LoadedCache, load_cache
    from gare_cache.heads.pairs import PairScores

__version__ = "0.1.0"
__all__ = ["Found", "LoadedCache", "PairScores", "Run", "__version__", "load_cache", "load_run"]

_MODULES = {
    "Found": "gare_cache.api",
    "LoadedCache": "gare_cache.cache.loading",
    "PairScores": "gare_cache.heads.pairs",
    "Run": "gare_cache.api",
    "load_cache": "gare_cache.cache.loading",
    "load_run": "gare_cache.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
