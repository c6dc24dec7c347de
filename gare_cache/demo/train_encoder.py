"""Train the demo's CLIP on single drawn frames: ``python -m gare_cache.demo.train_encoder``."""

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
from gare_cache.demo.encoder_scores import score_encoder
from gare_cache.demo.stills import sample_pairs
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.encoders.text_tower import encode_cut

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


def train_encoder(
    out: Path,
    *,
    steps: int = 1400,
    batch_size: int = 192,
    learning_rate: float = 1e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> None:
    """Train a CLIP from scratch and write it as an open_clip folder, weights in float16.

    Symmetric InfoNCE with a learned temperature (CLIP, arXiv:2103.00020) over batches drawn on
    the fly; AdamW, linear warm-up, cosine decay to zero.

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
    model.train()
    optimiser = torch.optim.AdamW(_parameter_groups(model), lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _decay(step, steps))
    for step, (images, tokens) in enumerate(_batches(steps, batch_size, seed)):
        loss = _contrastive_loss(model, images, tokens)
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
        frames, captions = sample_pairs(batch_size, np.random.default_rng((seed, step)))
        images = [preprocess(Image.fromarray(frame)) for frame in frames]
        return torch.stack(images), tokenizer(captions)

    with ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(draw_batch, 0)
        for step in range(steps):
            batch = upcoming.result()
            if step + 1 < steps:
                upcoming = pool.submit(draw_batch, step + 1)
            yield batch


def _contrastive_loss(model: Any, images: Tensor, tokens: Tensor) -> Tensor:
    image = F.normalize(model.encode_image(images), dim=-1)  # [B, D]
    text = F.normalize(encode_cut(model, tokens), dim=-1)  # [B, D]
    logits = model.logit_scale.exp() * text @ image.T  # [B texts, B images]
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
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch-size", type=int, default=192)
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
    torch.set_num_threads(2)
    _main()
