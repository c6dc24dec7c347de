"""Train the demo's CLIP on single drawn frames: ``python -m tools.demo_clip.train_encoder``."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from gare_cache.demo import demo_encoder_dir
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.encoders.text_tower import encode_cut
from tools.demo_clip.encoder_scores import score_encoder
from tools.demo_clip.stills import sample_pairs
from tools.demo_clip.strangers import StrangerReading

MODEL_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "quick_gelu": True,
    "vision_cfg": {
        "image_size": 64,
        "layers": 4,
        "width": 128,
        "head_width": 32,
        "mlp_ratio": 2.0,
        "patch_size": 8,
        # Features of a CLS token held no position after 750 steps, the mean over patches does.
        "pool_type": "avg",
    },
    "text_cfg": {
        "context_length": 32,
        "vocab_size": 49408,
        "width": 64,
        "heads": 1,
        "layers": 4,
    },
}
PREPROCESS_CONFIG: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}

_WARM_UP = 0.08  # share of the steps
_MAX_LOGIT_SCALE = math.log(100)
# Wider than open_clip's 0.02: words that no frame caption holds (motions, order) keep this
# initial embedding, and must stay different from each other beside the trained positions.
_TOKEN_STD = 0.05
_POSITION_SCALE = 0.5
_LONGEST_WAVE, _SHORTEST_WAVE = 4.0, 0.5  # of the patch positions, in sides of the picture
_STRANGERS_FROM = 0.45  # share of the steps before the captions hold strangers
_READING_WEIGHT = 0.2
_READING_SEED = 5


def train_encoder(
    out: Path,
    *,
    steps: int = 4000,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a CLIP from scratch and write it as an open_clip folder, weights in float16.

    Symmetric InfoNCE with a learned temperature (CLIP, arXiv:2103.00020) over batches drawn on
    the fly; AdamW, linear warm-up, cosine decay to zero. In the later part the captions hold
    strangers too, and a small loss keeps them readable (see ``strangers``).

    Args:
        out: folder for ``open_clip_config.json`` and ``open_clip_model.safetensors``.
        steps: number of batches.
        batch_size: pairs of a batch.
        learning_rate: its peak.
        seed: fixes weights and frames.
        on_step: called with (step, loss).
    """
    torch.manual_seed(seed)
    model = import_open_clip().model.CLIP(**MODEL_CONFIG)
    nn.init.normal_(model.token_embedding.weight, std=_TOKEN_STD)
    _place_patches(model.visual)
    model.train()
    reading = StrangerReading(MODEL_CONFIG["embed_dim"], seed=_READING_SEED)
    optimiser = torch.optim.AdamW(
        _parameter_groups(nn.ModuleList([model, reading])), lr=learning_rate, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _decay(step, steps))
    for step, (images, tokens) in enumerate(_batches(steps, batch_size, seed)):
        image = F.normalize(model.encode_image(images), dim=-1)  # [B, D]
        text = F.normalize(encode_cut(model, tokens), dim=-1)  # [B, D]
        loss = _contrastive_loss(text, image, model.logit_scale.exp())
        if _with_strangers(step, steps):
            loss = loss + _READING_WEIGHT * reading(text, tokens)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=_MAX_LOGIT_SCALE)
        if on_step is not None:
            on_step(step, float(loss.detach()))
    _save(model, out)


def _batches(steps: int, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield preprocessed frames ``[B, 3, 64, 64]`` and tokens ``[B, 32]``, drawn one ahead."""
    open_clip = import_open_clip()
    preprocess = open_clip.image_transform(
        MODEL_CONFIG["vision_cfg"]["image_size"], is_train=False, **PREPROCESS_CONFIG
    )
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])

    def draw_batch(step: int) -> tuple[Tensor, Tensor]:
        frames, captions = sample_pairs(
            batch_size,
            np.random.default_rng((seed, step)),
            strangers=_with_strangers(step, steps),
        )
        images = [preprocess(Image.fromarray(frame)) for frame in frames]
        return torch.stack(images), tokenizer(captions)

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(draw_batch, 0)
        for step in range(steps):
            batch = upcoming.result()
            if step + 1 < steps:
                upcoming = pool.submit(draw_batch, step + 1)
            yield batch


def _with_strangers(step: int, steps: int) -> bool:
    return step >= _STRANGERS_FROM * steps


def _place_patches(tower: Any) -> None:
    """Start the patch positions as sine and cosine waves along both axes.

    From random positions a tower this small does not find out where things are.
    """
    vision = MODEL_CONFIG["vision_cfg"]
    grid, width = vision["image_size"] // vision["patch_size"], vision["width"]
    waves = torch.logspace(
        math.log2(1 / _LONGEST_WAVE), math.log2(1 / _SHORTEST_WAVE), width // 4, base=2
    )
    centres = (torch.arange(grid) + 0.5) / grid
    angles = 2 * math.pi * centres[:, None] * waves
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [grid, width / 2]
    down, across = (
        line[:, None].expand(-1, grid, -1),
        line[None].expand(grid, -1, -1),
    )
    positions = torch.cat([down, across], dim=2).reshape(grid * grid, width)
    with torch.no_grad():
        tower.positional_embedding[1:] = _POSITION_SCALE * positions


def _contrastive_loss(text: Tensor, image: Tensor, scale: Tensor) -> Tensor:
    logits = scale * text @ image.T  # [B texts, B images]
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Decay the matrices only: decay would shrink the embeddings of words never seen to zero."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embedding" not in name
        (decayed if is_matrix else kept).append(parameter)
    return [{"params": decayed, "weight_decay": 0.05}, {"params": kept, "weight_decay": 0.0}]


def _decay(step: int, steps: int) -> float:
    warm_up = max(1, round(_WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def _save(model: nn.Module, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, out / "open_clip_model.safetensors")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo's CLIP on single drawn frames.")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=demo_encoder_dir())
    args = parser.parse_args()
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 25 == 0:
            print(f"step {step} loss {loss:.3f} {time.monotonic() - started:.0f} s", flush=True)

    train_encoder(
        args.out, steps=args.steps, batch_size=args.batch_size, seed=args.seed, on_step=report
    )
    print(json.dumps(score_encoder(args.out)))


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the shipped weights were made; another number rounds otherwise
    _main()
