"""Score how well the demo's CLIP matches single frames with captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gare_cache.demo.drawing import Picture, draw
from gare_cache.encoders.open_clip_import import import_open_clip
from tools.demo_clip.stills import compress, frame_caption, sample_still, swapped_relation, twins


def score_encoder(folder: Path, *, count: int = 1000, seed: int = 7919) -> dict[str, float]:
    """Score the CLIP of a folder on frames that training did not draw.

    Args:
        folder: an open_clip folder (``local-dir:``).
        count: frames of each score, at least 100.
        seed: of the frames; another than the training's.

    Returns:
        Percentages: ``retrieval`` (the right one among 100 different captions comes first),
        ``relation`` (the true caption beats "right of" for "left of", "below" for "above", and
        back) and ``binding`` (it beats the caption with the two colours exchanged). Chance is 1,
        50 and 50.
    """
    rng = np.random.default_rng(seed)
    encoder = _Encoder(folder)
    groups = [_retrieval_group(rng, 100) for _ in range(count // 100)]
    return {
        "retrieval": float(np.mean([_rank_first(encoder, *group) for group in groups])),
        "relation": _prefer_true(encoder, *_relation_trials(rng, count)),
        "binding": _prefer_true(encoder, *_binding_trials(rng, count)),
    }


class _Encoder:
    def __init__(self, folder: Path) -> None:
        open_clip = import_open_clip()
        name = f"local-dir:{folder}"
        self._model, _, self._preprocess = open_clip.create_model_and_transforms(name)
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(name)

    @torch.no_grad()
    def frames(self, pictures: Sequence[Picture], rng: np.random.Generator) -> Tensor:
        """Draw, compress and encode pictures: unit rows ``[n, D]``."""
        images = [Image.fromarray(compress(draw(picture), rng)) for picture in pictures]
        batch = torch.stack([self._preprocess(image) for image in images])
        features: Tensor = self._model.encode_image(batch, normalize=True)
        return features

    @torch.no_grad()
    def captions(self, captions: Sequence[str]) -> Tensor:
        """Encode captions: unit rows ``[n, D]``."""
        features: Tensor = self._model.encode_text(self._tokenizer(list(captions)), normalize=True)
        return features


def _retrieval_group(rng: np.random.Generator, count: int) -> tuple[list[Picture], list[str]]:
    pictures: dict[str, Picture] = {}
    while len(pictures) < count:
        picture = sample_still(rng)
        pictures.setdefault(frame_caption(picture, rng), picture)
    return list(pictures.values()), list(pictures)


def _rank_first(encoder: _Encoder, pictures: list[Picture], captions: list[str]) -> float:
    frames = encoder.frames(pictures, np.random.default_rng(0))
    best = (frames @ encoder.captions(captions).T).argmax(dim=1)
    return 100 * float((best == torch.arange(len(captions))).float().mean())


def _relation_trials(
    rng: np.random.Generator, count: int
) -> tuple[list[Picture], list[str], list[str]]:
    pictures = [sample_still(rng, num_figures=2) for _ in range(count)]
    true = [frame_caption(picture, rng, relation=True) for picture in pictures]
    return pictures, true, [swapped_relation(caption) for caption in true]


def _binding_trials(
    rng: np.random.Generator, count: int
) -> tuple[list[Picture], list[str], list[str]]:
    pictures: list[Picture] = []
    true: list[str] = []
    false: list[str] = []
    while len(pictures) < count:
        picture = sample_still(rng, num_figures=2)
        others = twins(picture)
        if "colours" not in others:
            continue
        seed = int(rng.integers(2**31))
        pictures.append(picture)
        true.append(frame_caption(picture, np.random.default_rng(seed), relation=True))
        false.append(frame_caption(others["colours"], np.random.default_rng(seed), relation=True))
    return pictures, true, false


def _prefer_true(
    encoder: _Encoder, pictures: list[Picture], true: list[str], false: list[str]
) -> float:
    frames = encoder.frames(pictures, np.random.default_rng(0))
    margin = (frames * (encoder.captions(true) - encoder.captions(false))).sum(dim=1)
    return 100 * float((margin > 0).float().mean())
