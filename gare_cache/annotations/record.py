"""The one form that every reader gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What annotation files call a split -> what this project calls it.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class AnnotationRecord:
    """One caption of one video or of one clip of it.

    Attributes:
        video: file name or relative path as annotated, with or without extension.
        caption: the sentence, stripped.
        split: ``train``, ``val`` or ``test``; None where the file does not say.
        start_seconds: start of the clip; None for the whole video.
        end_seconds: end of the clip; None for the whole video.
        origin: ``file:line``, for messages.
        caption_key: names the caption among those of its video; None where its number does.
    """

    video: str
    caption: str
    split: str | None
    start_seconds: float | None
    end_seconds: float | None
    origin: str
    caption_key: str | None = None


@dataclass(frozen=True)
class Annotations:
    """What a reader gives.

    Attributes:
        records: the captions, in the order of the annotation.
        notes: what a user should know of these files, one sentence each.
    """

    records: Sequence[AnnotationRecord]
    notes: tuple[str, ...] = ()
