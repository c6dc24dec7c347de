"""A tiny CLIP, random videos in memory, and a finetuning of both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import FeatureSplit
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.finetuning.setup import FinetuneSetup, Pixels
from gare_cache.finetuning.towers import Towers
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.settings import TrainSettings
from tests.tiny import make_tiny_encoder

DIM, FRAMES, SIZE = 64, 3, 32
OFF: dict[str, Any] = {"weight": 0.0}


def tiny_encoder(folder: Path) -> Encoder:
    return load_encoder(ModelSource(f"local-dir:{make_tiny_encoder(folder, seed=3)}"))


def video(id_: str) -> Pixels:
    seed = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:4], "big")
    generator = np.random.default_rng(seed)
    frames = 1 + seed % FRAMES
    return generator.integers(0, 256, (frames, SIZE, SIZE, 3), dtype=np.uint8)


@contextmanager
def source(video_ids: Sequence[str], draws: Sequence[str] | None) -> Iterator[Iterator[Pixels]]:
    yield map(video, video_ids)


def split(name: str, videos: int) -> FeatureSplit:
    ids = [f"{name}{number}" for number in range(videos)]
    captions = [f"{word} clip of {id_}" for id_ in ids for word in ("a", "the second")]
    return FeatureSplit(
        name=name,
        video_ids=ids,
        caption_ids=captions,
        captions=captions,
        frames=torch.zeros(videos, FRAMES, DIM),
        mask=torch.ones(videos, FRAMES, dtype=torch.bool),
        text=torch.zeros(2 * videos, DIM),
        video_of_text=torch.arange(videos).repeat_interleave(2),
        num_videos_listed=videos,
        num_captions_listed=2 * videos,
    )


def finetuning(
    encoder: Encoder,
    *,
    training: TrainSettings,
    head: dict[str, Any] | None = None,
    frames: Any = source,
    **settings: Any,
) -> FinetuneSetup:
    """Return a finetuning of the whole encoder, with GARE's gap module and no dropout."""
    own = FinetuneSettings.model_validate({"encoder": "full", "encoder_lr_scale": 1.0, **settings})
    torch.manual_seed(training.seed)
    values = {"gap": {"dropout": 0.0}, "aggregator": {"name": "lstm"}} if head is None else head
    built = build_head(dim=DIM, max_frames=FRAMES, **values)
    towers, objective = Towers(encoder, own), Objective(training.loss)
    return FinetuneSetup(
        head=built,
        objective=objective,
        optimizer=build_optimizer(
            built,
            objective,
            training,
            encoder=towers.trained,
            encoder_lr_scale=own.encoder_lr_scale,
        ),
        train_split=split("train", 12),
        val_split=split("val", 6),
        frame_choice=FrameChoice(FRAMES, jittered=False),
        towers=towers,
        settings=own,
        source=frames,
        num_frames=FRAMES,
    )
