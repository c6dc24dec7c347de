"""Building and checking a user's own modules inside a head."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from gare_cache.errors import ConfigError
from gare_cache.own import call_own, import_own, require_signature
from gare_cache.settings import CustomSettings


def build_custom_module(
    settings: CustomSettings, *, what: str, dim: int, max_frames: int
) -> nn.Module:
    """Import a user's class and call it as ``MyPart(dim=D, max_frames=F, **options)``.

    Raises:
        ConfigError: it is no class of ``nn.Module``, cannot be imported or called so, or fails.
    """
    name, options = settings.name, settings.options
    constructor = import_own(name, what=what)
    if not (inspect.isclass(constructor) and issubclass(constructor, nn.Module)):
        raise ConfigError(
            f"{what} {name!r} is {type(constructor).__name__} {constructor!r}; name a class of "
            "torch.nn.Module"
        )
    require_signature(constructor, name, what=what, keywords=("dim", "max_frames"), options=options)
    given = {"dim": dim, "max_frames": max_frames, **options}
    module: nn.Module = call_own(constructor, f"building {what} {name!r} with {given}", **given)
    return module


def require_result(
    returned: Any, *, shape: tuple[int, ...], like: Tensor, what: str, letters: str
) -> Tensor:
    """Check what a user's module returned.

    Args:
        returned: the result.
        shape: what it must have.
        like: a tensor whose dtype and device it must have.
        what: ``"interaction 'my:Head'"``.
        letters: the shape in the letters of the docs.

    Raises:
        ConfigError: it is no tensor, or one of another shape, dtype or device.
    """
    if not isinstance(returned, Tensor):
        raise ConfigError(
            f"{what} returned a {type(returned).__name__}; it must return a tensor {letters}"
        )
    if tuple(returned.shape) != shape:
        raise ConfigError(
            f"{what} returned a tensor of shape {tuple(returned.shape)}; {letters} is {shape} here"
        )
    if returned.dtype != like.dtype or returned.device != like.device:
        raise ConfigError(
            f"{what} returned {returned.dtype} on {returned.device}; its inputs are {like.dtype} "
            f"on {like.device}, and so must its result be"
        )
    return returned
