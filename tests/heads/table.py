"""Heads that every contract is checked on: values for ``plain_head`` beside dim and max_frames."""

from itertools import product
from typing import Any

from gare_cache.heads.aggregators import AGGREGATORS
from gare_cache.heads.interactions import INTERACTIONS
from gare_cache.heads.pooling import POOLINGS
from gare_cache.heads.settings import CONTEXTS, SIDES

_MEAN = {"aggregator": {"name": "mean"}}


def _poolings() -> dict[str, dict[str, Any]]:
    return {name: {**_MEAN, "pooling": {"name": name}} for name in POOLINGS}


def _gaps() -> dict[str, dict[str, Any]]:
    return {
        f"{pooling}, {side}, {context}": {
            **_MEAN,
            "pooling": {"name": pooling},
            "gap": {"side": side, "context": context, "heads": 2},
        }
        for pooling, side, context in product(POOLINGS, SIDES, CONTEXTS)
    }


def _variants() -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {
        "negated": {"eta": -1},
        "no gap": {"query": "text"},
        "no gap, words": {"query": "text", "context": "words"},
        "deep": {"layers": 2},
        "deep, words": {"layers": 2, "context": "words", "side": "video"},
        "identity": {"init": "identity"},
    }
    return {name: {**_MEAN, "gap": gap} for name, gap in changes.items()}


def _aggregators() -> dict[str, dict[str, Any]]:
    heads: dict[str, dict[str, Any]] = {
        "gap": {"gap": {}},
        "words": {"gap": {"context": "words"}},
        "linear": {"projection": "linear", "gap": {"context": "words", "side": "video"}},
    }
    heads |= {name: {"interaction": {"name": name}} for name in INTERACTIONS}
    return {
        f"{aggregator}, {name}": {"aggregator": {"name": aggregator}, **head}
        for aggregator, (name, head) in product(AGGREGATORS, heads.items())
    }


HEADS: dict[str, dict[str, Any]] = {**_poolings(), **_gaps(), **_variants(), **_aggregators()}
