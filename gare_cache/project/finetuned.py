"""The folder of outputs that a finetuning writes, and what stands there without one."""

from __future__ import annotations

from pathlib import Path

from gare_cache.errors import ConfigError
from gare_cache.files import write_record
from gare_cache.project.paths import ENCODER_CONFIG, Workspace
from gare_cache.project.progress import say

OFF = "off.json"


def require_encoder_in(folder: Path, outputs: Path | None) -> Path:
    """Return the folder of outputs to extract into with its own encoder.

    Args:
        folder: given with --encoder-from.
        outputs: given with --outputs.

    Raises:
        ConfigError: the folder has no encoder, or other outputs are given.
    """
    if not (folder / "encoder" / ENCODER_CONFIG).is_file():
        raise ConfigError(
            f"{folder} has no encoder/{ENCODER_CONFIG}, which `gare-cache finetune` writes; run it "
            "first (finetune.encoder: lora, last or full), or name its folder of outputs"
        )
    if outputs is not None and outputs.absolute() != folder.absolute():
        raise ConfigError(
            f"--encoder-from {folder} writes features.json there, but --outputs is {outputs}; "
            "leave one of them out"
        )
    return folder


def write_off(target: Workspace) -> None:
    """Leave what a pipeline expects of a finetuning that is off: folders that hold no run.

    A run that is there stays.
    """
    off = "finetuning is off; finetune.encoder: lora, last or full in params.yaml turns it on"
    if (target.encoder / ENCODER_CONFIG).is_file():
        say(f"{off}. {target.outputs} keeps what was finetuned before")
        return
    for folder in (target.encoder, target.run, target.manifest):
        write_record(folder / OFF, {"finetune.encoder": None})
    say(off)
