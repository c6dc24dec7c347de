"""Published architectures with random weights: the features are those of open_clip itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity

from gare_cache.encoders.encoder import load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import ConfigError
from tests.tiny import MODEL_CONFIG, make_tiny_encoder

CAPTIONS = ["a dog", "two people talk while a red car drives past them", "", "dog " * 90]
QUICK = ("ViT-S-32-alt", "MobileCLIP2-S0")
SLOW = (
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-32-256",
    "RN50",
    "RN50-quickgelu",
    "coca_ViT-B-32",
    "coca_base",
    "ViTamin-S",
    "EVA02-B-16",
    "convnext_base",
    "PE-Core-T-16-384",
    "vit_medium_patch16_gap_256",
    "swin_base_patch4_window7_224",
    "MobileCLIP-S1",
)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_a_published_architecture_equals_open_clip(name: str, tmp_path: Path) -> None:
    open_clip = import_open_clip()
    torch.manual_seed(0)
    model = open_clip.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # many towers begin with gains or biases of 0
            parameter.add_(0.01 * torch.randn_like(parameter))
    content = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    encoder = load_encoder(ModelSource(f"local-dir:{tmp_path}"))
    assert encoder.notes == ()
    images = torch.randn(2, 3, *encoder.preprocessing.size)
    tokenizer = open_clip.get_tokenizer(name)
    with torch.no_grad():
        expected = model.encode_image(images), model.encode_text(tokenizer(CAPTIONS))
    found = encoder.encode_frames(images), encoder.encode_tokens(encoder.tokenize(CAPTIONS))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape[1] == encoder.dim
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
        assert cosine_similarity(ours, theirs).min() > 1 - 1e-6


@pytest.mark.parametrize("kind", ["ResNet", "without CLS"])
def test_towers_without_patch_tokens_are_refused_alike(kind: str, tmp_path: Path) -> None:
    vision: dict[str, Any] = {"image_size": 64, "width": 64, "head_width": 64}
    if kind == "ResNet":
        vision |= {"layers": [1, 1, 1, 1], "width": 8}
    else:
        vision |= {"layers": 1, "patch_size": 16, "pool_type": "avg"}
    folder = make_tiny_encoder(tmp_path, seed=0, config=MODEL_CONFIG | {"vision_cfg": vision})
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    with pytest.raises(ConfigError, match=r"offers no patch tokens: .*set extract.patch_tokens to"):
        encoder.count_patches()
