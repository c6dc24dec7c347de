"""Preparation of a training: seeds, splits, head, loss and optimiser; and its identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from gare_cache.cache.reader import FeatureCache
from gare_cache.code_identity import installed_code_digest
from gare_cache.data.frames import FrameChoice
from gare_cache.data.split import SplitLoader
from gare_cache.errors import CacheError, ConfigError, counted
from gare_cache.files import canonical_digest
from gare_cache.heads.retrieval import RetrievalHead, build_head, initialise_from_encoder
from gare_cache.heads.settings import HeadSettings
from gare_cache.losses.objective import Objective
from gare_cache.manifest.tables import Manifest
from gare_cache.own import own_digests
from gare_cache.reproducibility import make_deterministic
from gare_cache.training.loop import TrainingSetup
from gare_cache.training.optimizers import build_optimizer
from gare_cache.training.precision import require_precision
from gare_cache.training.settings import TrainSettings

# The whole of a training, from the settings to the saved head.
_ENTRY = "gare_cache.stages.train"
Trained = Literal["solo", "batched"]
_FEATURES_IDENTITY = ("encoder_id", "extraction_id", "content_digest")


def set_up_training(
    head_settings: HeadSettings,
    settings: TrainSettings,
    cache: FeatureCache,
    manifest: Manifest,
    *,
    device: torch.device,
    load: SplitLoader,
) -> TrainingSetup:
    """Seed everything, load the splits and build head, loss and optimiser.

    Args:
        head_settings: of the head to train.
        settings: of the training.
        cache: the features.
        manifest: which videos and captions are whose split.
        device: where to train.
        load: has the arguments of ``gare_cache.data.split.load_split``.

    Raises:
        ConfigError: settings do not fit the data.
        CacheError: the features are incomplete, or lack what the head compares.
    """
    require_precision(settings, device)
    make_deterministic(seed=settings.seed, threads=settings.threads)
    num_frames = frames_of_training(settings, cache)
    choice = FrameChoice(num_frames, jittered=settings.frame_choice == "jittered")
    head = new_head(head_settings, cache, num_frames=num_frames).to(device)
    head.encodes_in_bfloat16 = settings.precision == "bfloat16"
    train_split = load(
        cache,
        manifest,
        "train",
        device=device,
        num_frames=None if settings.views or choice.jittered else num_frames,
        views=settings.views,
        words=head.needs_words,
    )
    val_split = load(
        cache, manifest, "val", device=device, num_frames=num_frames, words=head.needs_words
    )
    objective = Objective(settings.loss).to(device)
    optimizer = build_optimizer(head, objective, settings)
    return TrainingSetup(head, objective, optimizer, train_split, val_split, choice)


def new_head(settings: HeadSettings, cache: FeatureCache, *, num_frames: int) -> RetrievalHead:
    """Build a head for a cache's features and start it from the encoder.

    Raises:
        ConfigError: the settings do not fit together.
        CacheError: the head compares words, and the cache holds none.
    """
    head = build_head(settings, dim=cache.layout.dim, max_frames=num_frames)
    if head.needs_words and not cache.layout.words:
        raise CacheError(
            f"this head compares the words of the captions, and {cache.folder} holds no word "
            "tokens; set extract.word_tokens: true and run `gare-cache extract`, or take another "
            "head: head.gap.context: frames, head.interaction.name: pooled (imported features have "
            "no word tokens)"
        )
    initialise_from_encoder(head, cache.head_start())
    return head


def training_identity(
    head: HeadSettings,
    train: TrainSettings,
    features: Mapping[str, Any],
    listed: Mapping[str, str],
    *,
    num_processes: int = 1,
    trained: Trained = "solo",
) -> dict[str, Any]:
    """Return the identity of a training: settings, features, data and code.

    Machine and versions are not in it; they decide the last bits alone and stand in the record.
    Nor is ``train.logger``, which decides nothing.

    Args:
        head: settings of the head.
        train: settings of the training.
        features: content of ``features.json``.
        listed: of ``listed_digests``.
        num_processes: that train together; each draws its own dropout.
        trained: alone, or with other runs as one batched program, which rounds in another way.
    """
    settings = {"head": head.model_dump(), "train": train.identity}
    return {
        "settings": settings,
        **{name: features[name] for name in _FEATURES_IDENTITY},
        "data": dict(listed),
        "processes": num_processes,
        "trained": trained,
        "source": installed_code_digest(_ENTRY),
        "own": own_digests(settings),
    }


def listed_digests(manifest: Manifest) -> dict[str, str]:
    """Return the digest of what is listed of each split that training sees."""
    return {split: manifest.digest(split) for split in ("train", "val")}


def run_key(identity: Mapping[str, Any]) -> str:
    """Return a training's key, the first 16 digits of its identity's digest."""
    return canonical_digest(identity)[:16]


def frames_of_training(settings: TrainSettings, cache: FeatureCache) -> int:
    """Return F, the frames of a video that a training sees.

    Raises:
        ConfigError: the cache holds fewer, or none to choose from.
    """
    asked, cached = settings.num_frames, cache.layout.max_frames
    if asked > cached:
        raise ConfigError(
            f"train.num_frames is {asked}, but {cache.folder} holds at most "
            f"{counted(cached, 'frame')} a "
            f"video; set it to {cached} or less, or cache more (extract.max_frames_cached)"
        )
    if asked == cached and settings.frame_choice == "jittered":
        raise ConfigError(
            f"train.frame_choice is jittered, but train.num_frames and {cache.folder} both have "
            f"{counted(cached, 'frame')} a video, which leaves nothing to choose; lower "
            "train.num_frames"
        )
    return asked
