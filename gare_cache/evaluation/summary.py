"""Ranks of one direction -> everything that is said about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gare_cache.evaluation.metrics import QueryRanks, retrieval_metrics
from gare_cache.evaluation.significance import recall_interval


def summarise(
    ranks: QueryRanks,
    video_of_query: npt.NDArray[np.int64],
    *,
    num_items: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Return metrics, the 95 % interval of R@1, and the counts that they rest on.

    Args:
        ranks: of Q queries in one direction.
        video_of_query: (Q,) the video each query belongs to.
        num_items: size of the gallery.
        resamples: of the videos, for the interval.
        seed: of the resampling.

    Returns:
        Of ``retrieval_metrics``; ``R@1 low`` and ``R@1 high`` in percent; ``queries``, ``items``
        and ``tied queries``.
    """
    low, high = recall_interval(ranks.hits(1), video_of_query, resamples=resamples, seed=seed)
    return {
        **retrieval_metrics(ranks),
        "R@1 low": low,
        "R@1 high": high,
        "queries": len(ranks.ahead),
        "items": num_items,
        "tied queries": int((ranks.ties > 0).sum()),
    }
