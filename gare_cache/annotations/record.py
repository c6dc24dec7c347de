"""Annotation records, the common result of all readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Name of a split in annotation files -> its name here.
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
    """A caption of a video or of a clip of it.

    Attributes:
        video: file name or relative path as annotated, with or without extension.
        caption: the sentence, stripped; None for a video without captions.
        split: ``train``, ``val`` or ``test``; None if the file does not say.
        start_seconds: start of the clip; None for the whole video.
        end_seconds: end of the clip; None for the whole video.
        origin: ``file:line``, for messages.
        caption_key: identifies the caption within its video; None uses its number.
        file_names: names that the file may have, in order of preference; empty: ``video`` alone.
    """

    video: str
    caption: str | None
    split: str | None
    start_seconds: float | None
    end_seconds: float | None
    origin: str
    caption_key: str | None = None
    file_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Annotations:
    """Result of a reader.

    Attributes:
        records: the captions, in the order of the annotation.
        notes: remarks on the files for the user, one sentence each.
    """

    records: Sequence[AnnotationRecord]
    notes: tuple[str, ...] = ()
