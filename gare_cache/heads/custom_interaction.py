"""A user's own interaction inside a head: any module that scores texts against videos."""

from __future__ import annotations

from torch import Tensor, nn

from gare_cache.errors import ConfigError, unknown_name
from gare_cache.heads.custom_parts import build_custom_module, require_result
from gare_cache.heads.pairs import PairScores, Words
from gare_cache.heads.settings import SIDES
from gare_cache.own import call_own, require_signature
from gare_cache.settings import CustomSettings

# What a module that does not say is taken to keep of a pair, times (F + W) D.
_COPIES = 4


class CustomInteraction(nn.Module):
    """Call a user's module on all pairs and check what it returns.

    The module is called as ``module(text, frames, mask)``, or with the words as a fourth argument
    where it sets ``needs_words``. It returns the scores (T, V), or ``PairScores`` with increments.
    Its method ``pair_elements(num_frames, num_words, dim)``, where it has one, says how many
    numbers it keeps for one pair, so that blocks fit into memory.
    """

    def __init__(self, module: nn.Module, name: str) -> None:
        """Wrap a module.

        Args:
            module: the user's.
            name: its import path, for messages.

        Raises:
            ConfigError: its ``side`` is unknown, its ``needs_words`` is no bool, or its ``forward``
                takes other arguments.
        """
        super().__init__()
        self.module = module
        self.name = name
        if self.side not in SIDES:
            raise ConfigError(unknown_name(f"side of {self._what}", str(self.side), SIDES))
        if not isinstance(self.needs_words, bool):
            raise ConfigError(
                f"needs_words of {self._what} is {self.needs_words!r}; it must be True or False"
            )
        words = ("words",) if self.needs_words else ()
        require_signature(
            module.forward,
            name,
            what="forward of interaction",
            arguments=("text", "frames", "mask", *words),
            options={},
        )

    @property
    def needs_words(self) -> bool:
        """Whether the score depends on the texts' word tokens; False unless the module says so."""
        return getattr(self.module, "needs_words", False)

    @property
    def side(self) -> str:
        """The side that the increment corrects; ``text`` unless the module says otherwise."""
        return getattr(self.module, "side", "text")

    def forward(
        self, text: Tensor, frames: Tensor, mask: Tensor, words: Words | None = None
    ) -> PairScores:
        """Score all pairs: text (T, D), frames (V, F, D), mask (V, F), words where needed.

        Raises:
            ConfigError: the module raises, or the result has another type, shape, dtype or device
                than it must have.
        """
        arguments = (text, frames, mask, words) if self.needs_words else (text, frames, mask)
        returned = call_own(self.module, self._what, *arguments)
        scores, delta = returned, None
        if isinstance(returned, PairScores):
            scores, delta = returned.similarity, returned.delta
        shape = (len(text), len(frames))
        similarity = require_result(
            scores, shape=shape, like=text, what=self._what, letters="(T, V)"
        )
        if delta is not None:
            delta = require_result(
                delta,
                shape=(*shape, text.shape[1]),
                like=text,
                what=f"delta of {self._what}",
                letters="(T, V, D)",
            )
        return PairScores(similarity, delta)

    def pair_elements(self, num_frames: int, num_words: int, dim: int) -> int:
        """Return the module's estimate of the numbers that a pair keeps, or 4 (F + W) D.

        Raises:
            ConfigError: the module raises, or the estimate is no whole number of at least 1.
        """
        estimate = getattr(self.module, "pair_elements", None)
        if estimate is None:
            return _COPIES * (num_frames + num_words) * dim
        what = f"pair_elements of {self._what}"
        elements = call_own(estimate, what, num_frames, num_words, dim)
        if isinstance(elements, bool) or not isinstance(elements, int) or elements < 1:
            raise ConfigError(f"{what} is {elements!r}; it must be a whole number of at least 1")
        return elements

    @property
    def _what(self) -> str:
        return f"interaction {self.name!r}"


def build_custom_interaction(
    settings: CustomSettings, *, dim: int, max_frames: int
) -> CustomInteraction:
    """Build a user's interaction ``MyHead(dim=D, max_frames=F, **options)``.

    Args:
        settings: import path and options.
        dim: width D of the features.
        max_frames: the most frames of a video.

    Raises:
        ConfigError: it cannot be imported or built.
    """
    module = build_custom_module(settings, what="interaction", dim=dim, max_frames=max_frames)
    return CustomInteraction(module, settings.name)
