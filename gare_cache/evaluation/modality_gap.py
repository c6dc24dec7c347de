"""The modality gap: its size, and texts, videos and shifted items projected on a plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gare_cache.evaluation.duplicates import unit_rows
from gare_cache.heads.pairs import Words
from gare_cache.heads.retrieval import RetrievalHead

Vectors = npt.NDArray[np.float32]

# All pairs of these videos and their captions are computed; only the matched ones are kept.
_VIDEOS_AT_ONCE = 8


@dataclass(frozen=True)
class MatchedPairs:
    """The vectors that a head compares for each text and its video.

    Attributes:
        text: t_i after the projection, (T, D).
        video: p_ij, the video pooled for this text, (T, D).
        delta: Delta_ij of the pair, (T, D); None where the head has no gap module.
        side: the side to which Delta is added, ``text`` or ``video``.
    """

    text: Vectors
    video: Vectors
    delta: Vectors | None
    side: str = "text"


@dataclass(frozen=True)
class GapPlane:
    """Unit vectors of matched pairs, projected on a plane.

    Attributes:
        points: ``text``, ``video`` and, with a gap module, ``shifted`` (text + Delta, or video +
            Delta where the module corrects the video): (T, 2). The first coordinate runs along the
            difference of the means of video and text, the second along the first principal
            component of what remains of both.
        second_share: share of the variance around the two means along the second axis.
    """

    points: Mapping[str, Vectors]
    second_share: float


@torch.no_grad()
def matched_pairs(
    head: RetrievalHead,
    text: Tensor,
    frames: Tensor,
    mask: Tensor,
    video_of_text: Tensor,
    words: Callable[[Tensor], Words | None] | None = None,
) -> MatchedPairs:
    """Compute the vectors that a head compares, for matched pairs only.

    cos(text + delta, video) of row i, or cos(text, video + delta) on the video side, is the head's
    similarity of text i and its video.

    Args:
        head: in evaluation mode, on the device of the features; one that ``compares_vectors``.
        text: sentence features (T, D).
        frames: frame features (V, F, D).
        mask: (V, F) bool, True on real frames, which come first.
        video_of_text: (T,) row of each text's video.
        words: rows -> word tokens of these texts and their mask, where the head needs them.
    """
    encoded = head.encode_text(text)
    videos = torch.zeros_like(encoded)
    deltas = torch.zeros_like(encoded)
    has_delta = False
    for block in torch.unique(video_of_text).split(_VIDEOS_AT_ONCE):
        rows = torch.isin(video_of_text, block).nonzero().flatten()  # (texts of the block,)
        vectors = head.vectors(
            text[rows], frames[block], mask[block], None if words is None else words(rows)
        )
        pairs = (
            torch.arange(len(rows), device=rows.device),
            torch.searchsorted(block, video_of_text[rows]),
        )
        videos[rows] = vectors.video.expand(len(rows), -1, -1)[pairs]  # (T, V, D) -> (T, D)
        if vectors.delta is not None:
            has_delta = True
            deltas[rows] = vectors.delta[pairs]  # (T, V, D) -> (T, D)
    return MatchedPairs(
        encoded.cpu().numpy(),
        videos.cpu().numpy(),
        deltas.cpu().numpy() if has_delta else None,
        head.side,
    )


def gap_numbers(pairs: MatchedPairs) -> dict[str, float]:
    """Return the size of the gap and the mean cosine of matched pairs, before and after Delta.

    ``gap``: length of mean(video) - mean(text), all vectors of length 1; ``cosine``: mean cosine
    of a text and its video. With a gap module ``shifted_gap`` and ``shifted_cosine`` of the
    corrected item + Delta and the other item, ``delta_length``: mean of |Delta| / |corrected item|,
    and ``delta_cosine``: mean cosine of Delta and other - corrected item, 1 where the increment
    points from the text to its video (text side) or from the video to its text (video side).
    """
    text, video = unit_rows(pairs.text), unit_rows(pairs.video)
    numbers = {"gap": _distance(text, video), "cosine": _mean_cosine(text, video)}
    if pairs.delta is None:
        return numbers
    corrected, other = pairs.text, pairs.video
    if pairs.side == "video":
        corrected, other = other, corrected
    shifted = unit_rows(corrected + pairs.delta)
    lengths = [np.linalg.norm(vectors, axis=1) for vectors in (pairs.delta, corrected)]
    return numbers | {
        "shifted_gap": _distance(shifted, unit_rows(other)),
        "shifted_cosine": _mean_cosine(shifted, unit_rows(other)),
        "delta_length": float((lengths[0] / np.maximum(lengths[1], 1e-12)).mean()),
        "delta_cosine": _mean_cosine(unit_rows(pairs.delta), unit_rows(other - corrected)),
    }


def gap_plane(pairs: MatchedPairs) -> GapPlane:
    """Project matched pairs on the direction of the gap and the main component orthogonal to it.

    The axes are fitted on texts and videos; the corrected item + Delta is projected on the same
    axes. The sign of the second axis makes its largest coordinate positive.
    """
    vectors = {"text": unit_rows(pairs.text), "video": unit_rows(pairs.video)}
    means = {name: rows.mean(axis=0) for name, rows in vectors.items()}
    difference = means["video"] - means["text"]
    first = difference / max(float(np.linalg.norm(difference)), 1e-12)
    around = np.concatenate([rows - means[name] for name, rows in vectors.items()])  # (2T, D)
    total = float((around**2).sum())
    across = around - np.outer(around @ first, first)  # (2T, D)
    values, axes = np.linalg.eigh(across.T.astype(np.float64) @ across)  # (D,), (D, D)
    second = axes[:, -1] * np.sign(axes[np.abs(axes[:, -1]).argmax(), -1])  # (D,)
    if pairs.delta is not None:
        corrected = pairs.text if pairs.side == "text" else pairs.video
        vectors["shifted"] = unit_rows(corrected + pairs.delta)
    middle = (means["text"] + means["video"]) / 2
    plane = np.stack([first, second], axis=1)  # (D, 2)
    points = {name: ((rows - middle) @ plane).astype(np.float32) for name, rows in vectors.items()}
    return GapPlane(points, float(values[-1]) / total if total > 0 else 0.0)


def _distance(first: Vectors, second: Vectors) -> float:
    return float(np.linalg.norm(first.mean(axis=0) - second.mean(axis=0)))


def _mean_cosine(first: Vectors, second: Vectors) -> float:
    return float((first * second).sum(axis=1).mean())
