"""What a finetuning depends on: its settings, the run it starts from, and its key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gare_cache.code_identity import installed_code_digest
from gare_cache.errors import ConfigError
from gare_cache.files import read_json
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.heads.settings import HeadSettings
from gare_cache.training.settings import TrainSettings
from gare_cache.training.setup import training_identity

# The whole of a finetuning, from the settings to the saved encoder.
_ENTRY = "gare_cache.stages.finetune"
_REPLACED = ("epochs", "batch_size", "learning_rate")


def finetuning_training(train: TrainSettings, own: FinetuneSettings) -> TrainSettings:
    """Return the settings of ``train`` with what ``finetune`` replaces.

    Raises:
        ConfigError: a setting is for training on cached features alone.
    """
    replaced = {name: v for name in _REPLACED if (v := getattr(own, name)) is not None}
    settings = train.model_copy(update=replaced)
    of_features = {
        "views": settings.views,
        "frame_choice: jittered": settings.frame_choice == "jittered",
        "compile": settings.compile,
    }
    for name, asked in of_features.items():
        if asked:
            raise ConfigError(
                f"train.{name} is for training on cached features alone; finetuning does without "
                "it (finetune.augment augments its frames)"
            )
    if settings.precision != "float32":
        raise ConfigError(
            f"train.precision is {settings.precision}; finetuning has finetune.precision instead; "
            "set train.precision: float32"
        )
    return settings


def run_file(run: Path) -> Path:
    """Return the head in the folder of a run, or in a folder of outputs that holds one."""
    places = run / "head.safetensors", run / "run" / "head.safetensors"
    return next((place for place in places if place.is_file()), places[0])


def key_of_run(project: Path, own: FinetuneSettings) -> str | None:
    """Return the key of the run that the settings start from; None without one, or if it is gone.

    Args:
        project: folder from which ``from_run`` is seen.
        own: the settings.
    """
    if own.from_run is None:
        return None
    record = run_file(project / own.from_run).with_name("record.json")
    return str(read_json(record)["run_key"]) if record.is_file() else None


def finetuning_identity(
    head: HeadSettings,
    train: TrainSettings,
    own: FinetuneSettings,
    features: Mapping[str, Any],
    listed: Mapping[str, str],
    *,
    from_run: str | None,
    num_processes: int = 1,
) -> dict[str, Any]:
    """Return the identity of a finetuning: that of a training, and what else decides it.

    Args:
        head: settings of the head.
        train: as ``finetuning_training`` returns them.
        own: settings of the finetuning.
        features: ``features.json`` of the encoder that it starts from.
        listed: of ``listed_digests``.
        from_run: key of the run that it starts from.
        num_processes: that train together.
    """
    identity = training_identity(head, train, features, listed, num_processes=num_processes)
    settings = {**identity["settings"], "finetune": own.model_dump()}
    source = installed_code_digest(_ENTRY)
    return {**identity, "settings": settings, "from_run": from_run, "source": source}
