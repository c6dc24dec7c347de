"""Which settings of a head have an effect together; plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gare_cache.errors import ConfigError

POOLED = "pooled"
TOKEN_WISE = "token_wise"
# Aggregators that leave padded frames, which are zero, at zero.
_KEEPING_ZERO = ("mean", "lstm")


def needs_word_tokens(interaction: str, gap: Mapping[str, Any] | None) -> bool:
    """Say whether a built-in head compares the word tokens of the texts.

    Args:
        interaction: its name.
        gap: settings of the gap module, None without one.
    """
    return interaction == TOKEN_WISE or (gap is not None and gap.get("context") == "words")


def same_for_all_videos(gap: Mapping[str, Any] | None) -> bool:
    """Say whether the increment depends on the text alone: words asked by the text.

    Args:
        gap: all settings of the gap module, None without one.
    """
    return gap is not None and gap["context"] == "words" and gap["query"] == "text"


def require_effect(
    *,
    projection: str,
    aggregator: str,
    interaction: str,
    pooling: Mapping[str, Any] | None,
    gap: Mapping[str, Any] | None,
    reference_padding: bool,
) -> None:
    """Refuse settings of a head that would change nothing.

    Args:
        projection: its name.
        aggregator: its name.
        interaction: its name.
        pooling: ``name`` and settings; None for none, or for the default of ``pooled``.
        gap: settings of the gap module; None without one.
        reference_padding: whether padded frames count as in GARE's reference code.

    Raises:
        ConfigError: a setting has no effect beside the others; the message names it.
    """
    if interaction != POOLED:
        for what, value, idle in (
            ("pooling", pooling, "null"),
            ("gap", gap, "null"),
            ("reference_padding", reference_padding or None, "false"),
        ):
            if value is not None:
                raise ConfigError(
                    f"head.{what} belongs to the interaction 'pooled' and changes nothing with "
                    f"{interaction!r}; set head.{what}: {idle}"
                )
        return
    gap_settings = {} if gap is None else gap
    if gap_settings.get("query") == "text" and gap_settings.get("eta") == -1:
        raise ConfigError(
            "head.gap.eta is the sign of the gap, and with head.gap.query: text there is none; set "
            "head.gap.eta: 1, or head.gap.query: gap"
        )
    moved = projection != "none" or aggregator not in _KEEPING_ZERO
    if reference_padding and not _padding_matters(pooling, gap, moved):
        raise ConfigError(
            "head.reference_padding changes nothing in this head: padded frames are not attended "
            "to by psi, move no mean in another direction, and the length of the pooled video does "
            "not matter; set head.reference_padding: false"
        )


def _padding_matters(
    pooling: Mapping[str, Any] | None, gap: Mapping[str, Any] | None, moved: bool
) -> bool:
    """Say whether counting padded frames changes a score; ``moved``: they are no longer zero."""
    name = (pooling or {}).get("name", "text_conditioned")
    if gap is not None:
        if gap.get("context", "frames") == "frames" or gap.get("query", "gap") == "gap":
            return True
        if gap.get("side") == "video" and name != "cross_attention":
            return True
    return name == "mean" and moved
