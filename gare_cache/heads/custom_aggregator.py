"""A user's own temporal aggregator inside a head."""

from __future__ import annotations

from torch import Tensor, nn

from gare_cache.heads.custom_parts import build_custom_module, require_result
from gare_cache.own import call_own, require_signature
from gare_cache.settings import CustomSettings


class CustomAggregator(nn.Module):
    """Call a user's module (frames, mask) -> frames and check what it returns."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name
        require_signature(
            module.forward,
            name,
            what="forward of aggregator",
            arguments=("frames", "mask"),
            options={},
        )

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Aggregate.

        Args:
            frames: (V, F, D).
            mask: (V, F) bool, True on real frames, which come first in every row.

        Returns:
            (V, F, D).

        Raises:
            ConfigError: the module raises, or the result has another shape, dtype or device.
        """
        what = f"aggregator {self.name!r}"
        return require_result(
            call_own(self.module, what, frames, mask),
            shape=tuple(frames.shape),
            like=frames,
            what=what,
            letters="(V, F, D)",
        )


def build_custom_aggregator(
    settings: CustomSettings, *, dim: int, max_frames: int
) -> CustomAggregator:
    """Build a user's aggregator ``MyAggregator(dim=D, max_frames=F, **options)``.

    Args:
        settings: import path and options.
        dim: width D of the frames.
        max_frames: the most frames of a video.

    Raises:
        ConfigError: it cannot be imported or built.
    """
    module = build_custom_module(settings, what="aggregator", dim=dim, max_frames=max_frames)
    return CustomAggregator(module, settings.name)
