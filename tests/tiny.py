"""A small real project: encoded videos, captions, a CLIP with random weights."""

import csv
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import yaml
from safetensors.torch import save_file

from gare_cache.config import Params, parse_params
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.own import own_names, use_project
from gare_cache.project.paths import Workspace

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 4},
}
SPLIT_SIZES = {"train": 8, "val": 3, "test": 3}


def make_tiny_encoder(folder: Path, *, seed: int, config: dict[str, Any] = MODEL_CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    open_clip = import_open_clip()
    torch.manual_seed(seed)
    options = dict(config)
    model_class = open_clip.CLIP
    if options.pop("custom_text", False):
        model_class = open_clip.CustomTextCLIP
    model = model_class(**json.loads(json.dumps(options)))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    return folder


def write_video(path: Path, *, seed: int, num_frames: int = 10, fps: int = 5) -> None:
    """Encode random coloured blocks that differ from frame to frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(num_frames):
            blocks = generator.integers(0, 256, (2, 3, 3), dtype=np.uint8)
            frame = np.repeat(np.repeat(blocks, 16, axis=0), 16, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def video_source(path: Path) -> dict[str, Any]:
    """Return a whole file as the cache's table lists it."""
    stat = path.stat()
    return {
        "video_id": path.stem,
        "path": str(path),
        "start_seconds": None,
        "end_seconds": None,
        "size_bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }


def make_project(folder: Path, encoder_dir: Path) -> Path:
    rows = []
    for split, count in SPLIT_SIZES.items():
        for number in range(count):
            name = f"{split}{number}"
            write_video(folder / "videos" / split / f"{name}.mp4", seed=len(rows))
            rows += [(name, f"{word} blocks number {number} of {split}", split) for word in "ab"]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "caption", "split"), *rows])
    write_params(folder, tiny_params(encoder_dir))
    return folder


def tiny_params(encoder_dir: Path) -> dict[str, Any]:
    return {
        "dataset": {"name": "tiny", "annotations": "captions.csv", "video_roots": ["videos"]},
        "encoder": {"model": f"local-dir:{encoder_dir}"},
        "extract": {"sampler": "segment_centre", "max_frames_cached": 4, "batch_frames": 8},
        "head": {"aggregator": {"name": "transformer", "layers": 1}},
        "train": {
            "num_frames": 4,
            "epochs": 3,
            "batch_size": 4,
            "threads": 1,
            "learning_rate": 0.001,
        },
        "evaluate": {"resamples": 50},
        "report": {"examples": 2},
    }


def write_params(folder: Path, values: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def change_params(folder: Path, **changes: Any) -> None:
    """Set dotted keys (``train__epochs=2`` is ``train.epochs``) in the project's params.yaml."""
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for key, value in changes.items():
        *sections, name = key.split("__")
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[name] = value
    write_params(folder, values)


def workspace(folder: Path) -> Workspace:
    use_project(folder, own_names(yaml.safe_load((folder / "params.yaml").read_text())))
    return Workspace(folder, params(folder), folder / "outputs")


def params(folder: Path) -> Params:
    return parse_params(yaml.safe_load((folder / "params.yaml").read_text()), where="params.yaml")
