"""Contrastive losses on a batch of matching pairs, by name; the diagonal is positive."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.losses.logits import pair_logits
from gare_cache.losses.ncl import ncl
from gare_cache.losses.own_loss import build_own_loss
from gare_cache.own import complete_own_settings, is_own
from gare_cache.plain_settings import require_bool, require_whole, with_defaults

ContrastiveLoss = Callable[..., Tensor]


def info_nce(
    similarity: Tensor, scale: Tensor | float, *, positives: Tensor | None = None
) -> Tensor:
    """Average the cross-entropy over rows and over columns.

    L = 1/2 ( CE over rows + CE over columns of S ), S = scale * similarity, target the diagonal:

        L = -1/(2B) sum_i [ log softmax_j(S_ij) at j = i  +  log softmax_k(S_ki) at k = i ]

    Source: GARE, arXiv:2505.12499, App. F. Rows are texts: at B = 2, similarity [[1, 0], [0, 1]]
    and scale 1, L = log(1 + exp(-1)) = 0.3133.

    Args:
        similarity: (B, B) cosines.
        scale: 1 / temperature.
        positives: (B, B) bool, True where text i describes video j. Pairs off the diagonal that
            are True are left out of the negatives; None keeps all of them as negatives, as the
            reference code does.

    Returns:
        Scalar.

    Raises:
        ConfigError: the similarity is not square, or ``positives`` is not bool of its shape.
    """
    logits = pair_logits(similarity, scale, positives)
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


CONTRASTIVE: dict[str, ContrastiveLoss] = {"info_nce": info_nce, "ncl": ncl}
CONTRASTIVE_DEFAULTS: dict[str, dict[str, Any]] = {
    "info_nce": {},
    "ncl": {"iterations": 4, "detach_biases": False},
}


def complete_contrastive_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Check a contrastive loss's settings and fill in the defaults.

    Args:
        settings: ``name`` and the settings of that loss; of an import path, ``options``.

    Returns:
        All settings of that loss, ``name`` included.

    Raises:
        ConfigError: the name or a setting is unknown, or a value is out of range.
    """
    name = str(settings.get("name", "info_nce"))
    if is_own(name):
        return complete_own_settings(settings, what="loss")
    _, own_defaults = _named(name)
    defaults = {"name": name, **own_defaults}
    complete = with_defaults(f"contrastive loss {name!r}", settings, defaults)
    if "iterations" in complete:
        require_whole("contrastive.iterations", complete["iterations"])
    if "detach_biases" in complete:
        require_bool("contrastive.detach_biases", complete["detach_biases"])
    return complete


def build_contrastive(settings: Mapping[str, Any]) -> ContrastiveLoss:
    """Bind a contrastive loss to its settings.

    Args:
        settings: as for ``complete_contrastive_settings``.

    Returns:
        A function (similarity (B, B), scale, positives=None or (B, B) bool) -> scalar.

    Raises:
        ConfigError: as ``complete_contrastive_settings``, or a user's loss cannot be imported or
            called.
    """
    complete = complete_contrastive_settings(settings)
    if is_own(complete["name"]):
        return build_own_loss(complete)
    loss, _ = _named(complete.pop("name"))
    return functools.partial(loss, **complete)


def _named(name: str) -> tuple[ContrastiveLoss, dict[str, Any]]:
    """Return a loss and the defaults of its settings."""
    if name not in CONTRASTIVE:
        raise ConfigError(unknown_name("contrastive loss", name, CONTRASTIVE))
    return CONTRASTIVE[name], CONTRASTIVE_DEFAULTS[name]
