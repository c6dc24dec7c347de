"""Settings of the built-in normalisers: a class for each that has any."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from gare_cache.settings import Count, Positive, Settings


class SinkhornSettings(Settings):
    """Sinkhorn's biases."""

    iterations: int = 4
    targets: Literal["uniform", "annotated"] = "uniform"

    @field_validator("iterations")
    @classmethod
    def _at_least_one(cls, iterations: int) -> int:
        if iterations < 1:
            raise ValueError(
                f"sinkhorn.iterations is {iterations}; it must be at least 1 (without iterations "
                "it is inverted_softmax: name that)"
            )
        return iterations


class QbnormSettings(Settings):
    """QB-Norm with the dynamic inverted softmax."""

    beta: Positive = 20.0
    k: Count = 1


class DslSettings(Settings):
    """The dual softmax."""

    temp: Positive = 1.0


class DualSettings(Settings):
    """The dual inverted softmax over queries and gallery items."""

    b1: Positive = 1 / 1.99
    b2: Positive = 3.0


class DualDynamicSettings(DualSettings):
    """The same for queries whose first item is a hub."""

    k: Count = 1


class CslsSettings(Settings):
    """Cross-domain similarity local scaling."""

    k: Count = 10


class NnnSettings(Settings):
    """Nearest-neighbour normalisation."""

    alpha: Positive = 0.75
    k: Count = 128
