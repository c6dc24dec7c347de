"""Positives of a batch: texts and videos that match, beyond the pair of each row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gare_cache.data.split import FeatureSplit


@dataclass(frozen=True)
class Positives:
    """Text-video relevance: a text is positive for every video annotated with the same sentence.

    Made by ``positives_of``.

    Attributes:
        sentence_of_text: (T,) int64 sentence number, equal for equal sentences.
        video_of_text: (T,) int64 row of each text's video.
        described: sorted int64 codes, sentence x V + video, of all annotated pairs.
        num_videos: number V of videos.
    """

    sentence_of_text: Tensor
    video_of_text: Tensor
    described: Tensor
    num_videos: int

    def among(self, rows: Tensor) -> Tensor:
        """Return which texts of a batch describe which of its videos.

        True if text i and column j belong to the same video, if their sentences are equal, or if
        text i's sentence is another caption of video j.

        Args:
            rows: (B,) int64, the batch's texts; column j is the video of text j.

        Returns:
            (B, B) bool with a True diagonal.
        """
        videos = self.video_of_text[rows]
        codes = self.sentence_of_text[rows, None] * self.num_videos + videos  # (B, B)
        return torch.isin(codes, self.described)


def positives_of(split: FeatureSplit) -> Positives:
    """Collect the sentences of each video of a split; sentences are compared exactly."""
    numbers: dict[str, int] = {}
    sentences = [numbers.setdefault(caption, len(numbers)) for caption in split.captions]
    device = split.video_of_text.device
    sentence_of_text = torch.tensor(sentences, dtype=torch.int64, device=device)
    num_videos = len(split.video_ids)
    codes = sentence_of_text * num_videos + split.video_of_text
    return Positives(sentence_of_text, split.video_of_text, torch.unique(codes), num_videos)
