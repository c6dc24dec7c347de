from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gare_cache.heads.retrieval import RetrievalHead, build_head

PSI_NAMES = {
    "layers.0.cross_attn.q_proj": "layers.0.query_proj",
    "layers.0.cross_attn.k_proj": "layers.0.key_proj",
    "layers.0.cross_attn.v_proj": "layers.0.value_proj",
    "layers.0.cross_attn.out_proj": "layers.0.out_proj",
    "layers.0.linear1": "layers.0.linear1",
    "layers.0.layer_norm1": "layers.0.norm1",
    "layers.0.layer_norm2": "layers.0.norm2",
    "layers.0.layer_norm3": "layers.0.norm3",
    "mean_proj": "mean_proj",
}


@pytest.fixture
def psi_names() -> dict[str, str]:
    """Names in the stored reference -> names in ``GapModule``."""
    return {f"{a}.{s}": f"{b}.{s}" for a, b in PSI_NAMES.items() for s in ("weight", "bias")}


@pytest.fixture
def reference(fixtures_dir: Path) -> Callable[[str], dict[str, Tensor]]:
    def load(name: str) -> dict[str, Tensor]:
        with np.load(fixtures_dir / "gare" / f"{name}.npz") as arrays:
            return {key: torch.tensor(arrays[key]) for key in arrays}

    return load


@pytest.fixture
def reference_head(psi_names: dict[str, str]) -> Callable[[dict[str, Tensor]], RetrievalHead]:
    def build(values: dict[str, Tensor]) -> RetrievalHead:
        head = build_head(
            dim=values["text"].shape[1],
            max_frames=values["frames"].shape[1],
            aggregator={"name": "mean"},
            pooling={"name": "text_conditioned", "temperature": float(values["temp"])},
            gap={"heads": int(values["heads"])},
            reference_padding=True,
        )
        head.interaction.gap.load_state_dict({b: values[f"psi.{a}"] for a, b in psi_names.items()})
        return head.eval()

    return build


@pytest.fixture
def inputs() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Random texts, frames and a mask with at least one real frame a video."""

    def make(
        num_texts: int = 5,
        num_videos: int = 4,
        num_frames: int = 6,
        dim: int = 16,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(num_texts, dim, generator=generator, dtype=dtype)
        frames = torch.randn(num_videos, num_frames, dim, generator=generator, dtype=dtype)
        lengths = torch.randint(1, num_frames + 1, (num_videos, 1), generator=generator)
        return text, frames, torch.arange(num_frames) < lengths

    return make


@pytest.fixture
def random_words() -> Callable[..., tuple[Tensor, Tensor]]:
    """Word tokens, zero on padding, and a mask with at least one real word a text."""

    def make(
        num_texts: int = 5,
        num_words: int = 4,
        dim: int = 16,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 + seed)
        tokens = torch.randn(num_texts, num_words, dim, generator=generator, dtype=dtype)
        lengths = torch.randint(1, num_words + 1, (num_texts, 1), generator=generator)
        mask = torch.arange(num_words) < lengths
        return tokens * mask[..., None], mask

    return make
