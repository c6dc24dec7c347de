"""A finetuned encoder as a folder that `encoder.model: local-dir:FOLDER` reads."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from gare_cache.files import replacing, write_json
from gare_cache.finetuning.towers import Towers

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def write_encoder(folder: Path, towers: Towers) -> None:
    """Write the towers, any LoRA merged, in the form of open_clip's repositories; by rename.

    Args:
        folder: made if it is missing.
        towers: their configuration and preprocessing are those of the encoder they started from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu().contiguous() for name, value in towers.weights.items()}
    identity = towers.encoder.identity
    content = {
        "model_cfg": {**identity["model_config"], "quick_gelu": identity["quick_gelu"]},
        "preprocess_cfg": {
            key: identity["preprocess"][key]
            for key in ("mean", "std", "interpolation", "resize_mode")
        },
    }
    with replacing(folder / WEIGHTS) as partial:
        partial.write_bytes(save(tensors))
    write_json(folder / CONFIG, json.loads(json.dumps(content)))
