"""A user's own contrastive loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from gare_cache.errors import ConfigError
from gare_cache.own import call_own, import_own, require_signature
from gare_cache.settings import CustomSettings


def build_custom_loss(settings: CustomSettings) -> Callable[..., Tensor]:
    """Import a user's loss and bind it to its options.

    Args:
        settings: import path and options.

    Returns:
        A function (similarity (B, B), scale, *, positives=None or (B, B) bool) -> scalar that
        calls ``my_loss(similarity, scale, positives=positives, **options)`` and raises a
        ``ConfigError`` where it raises, or its result is no scalar or cannot be differentiated.

    Raises:
        ConfigError: it cannot be imported or called so.
    """
    name, options = settings.name, settings.options
    function = import_own(name, what="loss")
    require_signature(
        function,
        name,
        what="loss",
        arguments=("similarity", "scale"),
        keywords=("positives",),
        options=options,
    )

    def loss(
        similarity: Tensor, scale: Tensor | float, *, positives: Tensor | None = None
    ) -> Tensor:
        given = {"positives": positives, **options}
        value = call_own(function, f"loss {name!r}", similarity, scale, **given)
        return _require_scalar(value, similarity, name)

    return loss


def _require_scalar(value: Any, similarity: Tensor, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise ConfigError(
            f"loss {name!r} returned a {type(value).__name__}; it must return a tensor, so that it "
            "can be differentiated"
        )
    if value.dim() != 0:
        raise ConfigError(
            f"loss {name!r} returned a tensor of shape {tuple(value.shape)}; it must be a scalar: "
            "average over the pairs"
        )
    if similarity.requires_grad and not value.requires_grad:
        raise ConfigError(
            f"loss {name!r} does not depend on the similarity, as far as gradients tell; keep to "
            "torch's functions, without detach, item, argmax or numpy on the way"
        )
    return value
