"""Heads without GARE's gap module, which ``build_head`` adds where nothing else is said."""

from typing import Any

from gare_cache.heads.retrieval import RetrievalHead, build_head


def plain_head(**values: Any) -> RetrievalHead:
    """Build a head without a gap module, and without a pooling for an interaction with none."""
    interaction = values.get("interaction") or {}
    if interaction.get("name", "pooled") != "pooled":
        values = {"pooling": None, **values}
    return build_head(**{"gap": None, **values})
