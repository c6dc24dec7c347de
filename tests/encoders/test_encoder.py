import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gare_cache.encoders import loading
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import ConfigError, EncoderError, EnvironmentFailure
from tests.tiny import MODEL_CONFIG, make_tiny_encoder

CAPTIONS = ["a dog", "a very long caption about two dogs and a cat", "", "dog " * 60]


@pytest.fixture(scope="module")
def encoder(tiny_encoder_dir: Path) -> Encoder:
    return load_encoder(ModelSource(f"local-dir:{tiny_encoder_dir}"))


@pytest.fixture(scope="module")
def plain(tiny_encoder_dir: Path) -> Any:
    """The same model as open_clip itself loads it: model, transform, tokenizer."""
    open_clip = import_open_clip()
    name = f"local-dir:{tiny_encoder_dir}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    return model.eval(), transform, open_clip.get_tokenizer(name)


def frames(count: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 40, 60, 3), dtype=np.uint8)


def test_frames_are_encoded_as_open_clip_does(encoder: Encoder, plain: Any) -> None:
    model, transform, _ = plain
    images = torch.stack([transform(Image.fromarray(frame)) for frame in frames()])
    preprocessed = encoder.preprocess(frames())
    assert torch.equal(preprocessed, images)
    assert encoder.preprocessing.size == (32, 32) == tuple(images.shape[-2:])
    with torch.no_grad():
        expected = model.encode_image(images)
    torch.testing.assert_close(encoder.encode_frames(preprocessed), expected, rtol=1e-5, atol=1e-6)


def test_the_cut_text_tower_gives_the_whole_ones_features(encoder: Encoder, plain: Any) -> None:
    model, _, tokenizer = plain
    assert encoder.cuts_text
    with torch.no_grad():
        expected = model.encode_text(tokenizer(CAPTIONS))
    tokens = encoder.tokenize(CAPTIONS)
    torch.testing.assert_close(encoder.encode_tokens(tokens), expected, rtol=1e-5, atol=1e-6)
    assert encoder.count_cut(CAPTIONS) == 1


def test_a_shorter_context_cuts_captions(tiny_encoder_dir: Path, encoder: Encoder) -> None:
    short = load_encoder(ModelSource(f"local-dir:{tiny_encoder_dir}"), context_length=6)
    assert short.tokenize(CAPTIONS).shape == (4, 6)
    assert short.count_cut(CAPTIONS) == 2
    same = short.encode_tokens(short.tokenize(CAPTIONS[:1]))
    whole = encoder.encode_tokens(encoder.tokenize(CAPTIONS[:1]))
    torch.testing.assert_close(same, whole, rtol=1e-5, atol=1e-6)
    for context in (2, 25):
        with pytest.raises(ConfigError, match=f"context_length is {context}; .*allows 3 to 24"):
            load_encoder(ModelSource(f"local-dir:{tiny_encoder_dir}"), context_length=context)


def test_a_tower_without_causal_mask_is_not_cut(tmp_path: Path) -> None:
    config = copy.deepcopy(MODEL_CONFIG)
    config["text_cfg"] |= {"no_causal_mask": True, "pool_type": "last"}
    config["custom_text"] = True
    folder = make_tiny_encoder(tmp_path, seed=0, config=config)
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    assert not encoder.cuts_text
    model = import_open_clip().create_model(f"local-dir:{folder}").eval()
    tokens = encoder.tokenize(CAPTIONS)
    with torch.no_grad():
        expected = model.encode_text(tokens)
    torch.testing.assert_close(encoder.encode_tokens(tokens), expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match=r"needs its whole context of 24; set it to null"):
        load_encoder(ModelSource(f"local-dir:{folder}"), context_length=6)


def test_half_precisions_are_close_and_have_other_identities(
    tiny_encoder_dir: Path, encoder: Encoder
) -> None:
    source = ModelSource(f"local-dir:{tiny_encoder_dir}")
    images = encoder.preprocess(frames())
    tokens = encoder.tokenize(CAPTIONS)
    for precision in ("bf16", "fp16"):
        half = load_encoder(source, precision=precision)
        assert half.encoder_id != encoder.encoder_id
        for found, expected in (
            (half.encode_frames(images), encoder.encode_frames(images)),
            (half.encode_tokens(tokens), encoder.encode_tokens(tokens)),
        ):
            assert found.dtype == torch.float32
            cosine = torch.nn.functional.cosine_similarity(found, expected)
            assert cosine.min() > 0.999
            assert not torch.equal(found, expected)


def test_the_identity_follows_the_weights_and_not_the_folder(
    tmp_path: Path, encoder: Encoder
) -> None:
    same = make_tiny_encoder(tmp_path / "elsewhere", seed=0)
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    assert load_encoder(ModelSource(f"local-dir:{same}")).encoder_id == encoder.encoder_id
    assert load_encoder(ModelSource(f"local-dir:{other}")).encoder_id != encoder.encoder_id


def test_what_heads_start_from(encoder: Encoder, plain: Any) -> None:
    model = plain[0]
    start = encoder.head_start()
    assert start["logit_scale"] == model.logit_scale
    assert torch.equal(start["text.positional_embedding"], model.positional_embedding)
    name = "transformer.resblocks.3.mlp.c_fc.weight"
    assert torch.equal(start[f"text.{name}"], model.state_dict()[name])


def test_a_text_tower_of_another_width_gives_the_scale_alone(tmp_path: Path) -> None:
    config = copy.deepcopy(MODEL_CONFIG)
    config["text_cfg"] |= {"width": 32}
    folder = make_tiny_encoder(tmp_path, seed=0, config=config)
    assert set(load_encoder(ModelSource(f"local-dir:{folder}")).head_start()) == {"logit_scale"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (ModelSource("ViT-B32", "openai"), "unknown encoder model 'ViT-B32'; did you mean 'ViT-B"),
        (ModelSource("ViT-B-32", "opnai"), "unknown weights for ViT-B-32 'opnai'; did you mean"),
        (
            ModelSource("ViT-B-32"),
            "encoder.pretrained is null, and 'ViT-B-32' comes without weights",
        ),
        (ModelSource("local-dir:/nowhere"), "/nowhere/open_clip_config.json does not exist"),
        (ModelSource("local-dir:/x", "openai"), "brings its own weights; set encoder.pretrained"),
        (ModelSource("ViT-B-32", "openai", quick_gelu=False), "tag 'openai' says True"),
        (ModelSource("ViT-B-32-quickgelu", "laion2b_e16"), "unknown weights"),
    ],
)
def test_names_that_are_wrong(source: ModelSource, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_encoder(source)


def test_unknown_precision_and_quick_gelu(tiny_encoder_dir: Path) -> None:
    source = ModelSource(f"local-dir:{tiny_encoder_dir}", quick_gelu=False)
    with pytest.raises(ConfigError, match=r"quick_gelu is False, but the model's configuration"):
        load_encoder(source)
    with pytest.raises(ConfigError, match=r"unknown precision 'fp8'; known: bf16, fp16, fp32"):
        load_encoder(source, precision="fp8")


@pytest.fixture(scope="module")
def checkpoint_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint file of a published architecture, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "vit.pt"
    torch.manual_seed(0)
    model = import_open_clip().create_model("ViT-S-32-alt")
    torch.save({"state_dict": model.state_dict(), "args": argparse.Namespace(lr=1)}, path)
    return path


def test_a_checkpoint_file_must_say_its_activation_and_be_trusted(checkpoint_file: Path) -> None:
    source = ModelSource("ViT-S-32-alt", str(checkpoint_file))
    with pytest.raises(ConfigError, match=r"encoder.quick_gelu must be true or false"):
        load_encoder(source)
    source = ModelSource("ViT-S-32-alt", str(checkpoint_file), quick_gelu=False)
    with pytest.raises(EncoderError, match=r"could run any code; if you trust it"):
        load_encoder(source)
    trusted = ModelSource(
        "ViT-S-32-alt", str(checkpoint_file), quick_gelu=False, trust_checkpoint=True
    )
    quick = ModelSource(
        "ViT-S-32-alt", str(checkpoint_file), quick_gelu=True, trust_checkpoint=True
    )
    plain_encoder, quick_encoder = load_encoder(trusted), load_encoder(quick)
    assert plain_encoder.encoder_id != quick_encoder.encoder_id
    image = torch.rand(1, 3, 224, 224)
    difference = plain_encoder.encode_frames(image) - quick_encoder.encode_frames(image)
    assert difference.abs().max() > 1e-4


def test_weights_that_do_not_fit_or_cannot_be_had(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no weights")
    with pytest.raises(EncoderError, match=r"cannot be loaded"):
        load_encoder(ModelSource("ViT-S-32-alt", str(broken), quick_gelu=True))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFailure, match=r"cannot be downloaded"):
        load_encoder(ModelSource("hf-hub:nobody/nothing"))


def test_layers_that_a_file_fills_draw_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with loading.Unfilled():
        layer = torch.nn.MultiheadAttention(64, 2)
        torch.nn.init.normal_(layer.out_proj.weight, std=0.1)
        torch.nn.init.trunc_normal_(torch.empty(8))
    assert torch.rand(4).tolist() == expected.tolist()
