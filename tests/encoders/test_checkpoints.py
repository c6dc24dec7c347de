"""Checkpoint files as they are found in the wild, against the model they were made from."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import ConfigError, EncoderError
from tests.tiny import MODEL_CONFIG, make_tiny_encoder

State = dict[str, Tensor]
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def state(tiny_encoder_dir: Path) -> State:
    from safetensors.torch import load_file

    return load_file(tiny_encoder_dir / WEIGHTS)


@pytest.fixture(scope="module")
def encoder(tiny_encoder_dir: Path) -> Encoder:
    return load_encoder(ModelSource(f"local-dir:{tiny_encoder_dir}"))


@pytest.fixture
def load(tmp_path: Path, tiny_encoder_dir: Path) -> Callable[..., Encoder]:
    """Load the tiny model with another checkpoint in its folder."""

    def _load(content: Any, *, name: str = "weights.pt", trust: bool = False) -> Encoder:
        config = "open_clip_config.json"
        (tmp_path / config).write_bytes((tiny_encoder_dir / config).read_bytes())
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif name.endswith(".safetensors"):
            save_file({key: value.contiguous() for key, value in content.items()}, tmp_path / name)
        else:
            torch.save(content, tmp_path / name)
        return load_encoder(ModelSource(f"local-dir:{tmp_path}", trust_checkpoint=trust))

    return _load


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def hugging_face(state: State) -> State:
    """The same weights under the names of Hugging Face's CLIPModel."""
    renamed: State = {}
    for name, value in state.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        short = name.removeprefix("visual.")
        if short in ("proj", "text_projection"):
            kind = "visual" if short == "proj" else "text"
            renamed[f"{kind}_projection.weight"] = value.T.contiguous()
        elif short == "logit_scale":
            renamed[short] = value
        elif "in_proj" in short:
            stem, kind = short.replace("transformer.resblocks", "encoder.layers").split(
                "attn.in_proj_"
            )
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                renamed[f"{tower}.{stem}self_attn.{part}_proj.{kind}"] = chunk.contiguous()
        else:
            for old, new in (
                ("transformer.resblocks", "encoder.layers"),
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
                ("token_embedding", "embeddings.token_embedding"),
                ("positional_embedding", "embeddings.position_embedding.weight"),
                ("ln_final", "final_layer_norm"),
                ("class_embedding", "embeddings.class_embedding"),
                ("conv1", "embeddings.patch_embedding"),
                ("ln_pre", "pre_layrnorm"),
                ("ln_post", "post_layernorm"),
            ):
                short = short.replace(old, new)
            renamed[f"{tower}.{short}"] = value
    return renamed


HEADS = {"head.weight": torch.ones(2, 2), "clip_proj.bias": torch.ones(2)}


@pytest.mark.parametrize(
    ("make", "notes"),
    [
        (lambda s: prefixed(s, "module."), ["the prefix 'module.' is taken off"]),
        (
            lambda s: prefixed(s, "clip.") | HEADS,
            ["the prefix 'clip.'", "left out of weights.pt, .*: head.weight, clip_proj.bias"],
        ),
        (
            lambda s: {"epoch": 3, "model": prefixed(s, "module.clip.") | HEADS},
            ["the prefix 'module.clip.'", "left out"],
        ),
        (lambda s: prefixed(s, "module.model._orig_mod."), ["the prefix 'module.model.'"]),
        (lambda s: {"state_dict": s, "optimizer": {"lr": 1.0}}, []),
        (lambda s: {"model": {"state_dict": s}, "ema": {}}, ["of model, ema .* 'model' is used"]),
        (lambda s: {"state_dict_ema": s}, []),
        (lambda s: hugging_face(s), ["those of Hugging Face's CLIP; they are mapped"]),
        (
            lambda s: prefixed(hugging_face(s), "model.clip.") | HEADS,
            ["Hugging Face", "left out of weights.pt, .*: head.weight"],
        ),
        (lambda s: s | {"visual.position_ids": torch.arange(5)}, []),
        (lambda s: s | {"logit_scale": s["logit_scale"].reshape(1)}, []),
        (
            lambda s: {
                (k if k.startswith(("visual.", "logit")) else f"text.{k}"): v for k, v in s.items()
            },
            [],
        ),
    ],
)
def test_the_same_weights_under_other_names(
    make: Callable[[State], Any],
    notes: list[str],
    state: State,
    encoder: Encoder,
    load: Callable[..., Encoder],
) -> None:
    found = load(make(dict(state)))
    assert found.encoder_id == encoder.encoder_id
    assert len(found.notes) == len(notes)
    for pattern, note in zip(notes, found.notes, strict=True):
        assert re.search(pattern, note)


def test_safetensors_of_hugging_face_beside_the_configuration(
    state: State, encoder: Encoder, load: Callable[..., Encoder]
) -> None:
    named = hugging_face(state) | {"text_model.embeddings.position_ids": torch.arange(24)}
    found = load(named, name="model.safetensors")
    assert found.encoder_id == encoder.encoder_id


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_checkpoints_give_their_rounded_values(
    dtype: torch.dtype, state: State, load: Callable[..., Encoder]
) -> None:
    half = {name: value.to(dtype) for name, value in state.items()}
    found = load(half, name="weights.safetensors")
    weight = found._model.visual.conv1.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["visual.conv1.weight"].float())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "ln_final.bias"},
            r"1 of the model's \d+ are missing \(ln_final.bias\)",
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith("visual.")},
            r"are missing \(visual\..*the file holds the text tower alone",
        ),
        (
            lambda s: s | {"transformer.resblocks.4.ln_1.weight": torch.ones(64)},
            r"1 are not the model's \(transformer.resblocks.4.ln_1.weight\)",
        ),
        (
            lambda s: s | {"text.cls_emb": torch.ones(64)},
            r"1 are not the model's \(text.cls_emb\)",
        ),
        (
            lambda s: s | {"visual.proj": torch.ones(64, 32)},
            r"visual.proj is \(64, 32\), the model's \(64, 64\)",
        ),
        (
            lambda s: s | {"visual.proj": torch.ones(64, 64, dtype=torch.int8)},
            r"visual.proj holds int8, as quantised weights do",
        ),
        (lambda s: s | {"visual.proj": s["visual.proj"] * torch.nan}, r"hold NaN \(visual.proj\)"),
        (lambda s: {"a.b": torch.ones(1)}, r"no name is one of the model's"),
        (lambda s: {}, r"weights.pt holds no weights, an empty dictionary"),
        (lambda s: {"state_dict": {}}, r"weights.pt holds no weights, an empty dictionary"),
        (lambda s: {"epoch": 1}, r"holds no weights, only epoch; save"),
        (lambda s: [1, 2], r"holds no weights but an object of type list"),
        (lambda s: torch.ones(3), r"holds no weights but an object of type Tensor"),
        (lambda s: nn.Linear(2, 2), r"pickled objects such as torch.nn.modules.linear.Linear"),
        (lambda s: b"", r"weights.pt is empty \(0 bytes\)"),
        (lambda s: b"\n<!DOCTYPE html><html>404</html>", r"weights.pt is a web page"),
        (lambda s: b'{"weight_map": {}}', r"weights.pt is a JSON text"),
        (
            lambda s: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            r"weights.pt is a Git-LFS pointer, not the weights; run `git lfs pull`",
        ),
        (lambda s: b"no weights at all", r"it is no checkpoint, damaged or cut short \(17 bytes"),
    ],
)
def test_what_is_not_the_models_weights_is_said(
    make: Callable[[State], Any], message: str, state: State, load: Callable[..., Encoder]
) -> None:
    with pytest.raises(EncoderError, match=message) as error:
        load(make(dict(state)))
    assert "\n" not in str(error.value)


def test_a_file_is_read_by_its_content_and_not_by_its_name(
    tmp_path: Path, state: State, encoder: Encoder, load: Callable[..., Encoder]
) -> None:
    torch.save(state, tmp_path / "saved")
    found = load((tmp_path / "saved").read_bytes(), name="model.safetensors")
    assert found.encoder_id == encoder.encoder_id
    save_file(state, tmp_path / "saved")
    found = load((tmp_path / "saved").read_bytes(), name="open_clip_model.pt")
    assert found.encoder_id == encoder.encoder_id


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_file_cut_short(
    suffix: str, tmp_path: Path, state: State, load: Callable[..., Encoder]
) -> None:
    whole = tmp_path / "whole"
    torch.save(state, whole) if suffix == "pt" else save_file(state, whole)
    with pytest.raises(EncoderError, match=r"cannot be loaded: .*bytes\); copy or download"):
        load(whole.read_bytes()[:-1000], name=f"weights.{suffix}")


def test_a_whole_module_is_loaded_if_trusted(
    tiny_encoder_dir: Path, encoder: Encoder, load: Callable[..., Encoder]
) -> None:
    module = import_open_clip().create_model(f"local-dir:{tiny_encoder_dir}")
    with pytest.raises(EncoderError, match=r"pickled objects such as open_clip\.\S+\) and could"):
        load(module)
    assert load(module, trust=True).encoder_id == encoder.encoder_id
    assert load({"model": module}, trust=True).encoder_id == encoder.encoder_id


def test_a_torchscript_archive_is_loaded_if_trusted(
    tmp_path: Path, tiny_encoder_dir: Path, encoder: Encoder, load: Callable[..., Encoder]
) -> None:
    module = import_open_clip().create_model(f"local-dir:{tiny_encoder_dir}").eval()
    del module.context_length
    module.register_buffer("context_length", torch.tensor(24))
    traced = torch.jit.trace_module(module, {"encode_image": torch.zeros(1, 3, 32, 32)})
    torch.jit.save(traced, tmp_path / "archive")
    archive = (tmp_path / "archive").read_bytes()
    (tmp_path / "archive").unlink()
    with pytest.raises(EncoderError, match=r"a TorchScript archive\) and could run any code; if"):
        load(archive)
    assert load(archive, trust=True).encoder_id == encoder.encoder_id


def test_another_context_and_image_size_are_said(tmp_path: Path, state: State) -> None:
    """Interpolated exactly as open_clip does."""
    config = copy.deepcopy(MODEL_CONFIG)
    config["text_cfg"]["context_length"] = 40
    config["vision_cfg"]["image_size"] = 64
    folder = make_tiny_encoder(tmp_path, seed=0, config=config)
    save_file(state, folder / WEIGHTS)
    found = load_encoder(ModelSource(f"local-dir:{folder}"))
    text, image = found.notes
    assert "trained with a text context of 24 tokens, the model has 40" in text
    assert "trained on images of 32 px, the model takes 64 px" in image
    expected = import_open_clip().create_model(f"local-dir:{folder}").state_dict()
    for name, value in found._model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    save_file({name: value.half() for name, value in state.items()}, folder / WEIGHTS)
    half = load_encoder(ModelSource(f"local-dir:{folder}"))._model.state_dict()
    torch.testing.assert_close(half, dict(expected), rtol=1e-3, atol=1e-3)


def test_which_file_of_a_folder(
    tmp_path: Path, tiny_encoder_dir: Path, state: State, load: Callable[..., Encoder]
) -> None:
    load(state, name="first.bin")
    with pytest.raises(EncoderError, match=r"holds 2 checkpoint files \(first.bin, second.pth\)"):
        load(state, name="second.pth")
    load(state, name=WEIGHTS)
    for name in ("first.bin", "second.pth", WEIGHTS):
        (tmp_path / name).unlink()
    with pytest.raises(EncoderError, match=r"holds no weights beside its configuration"):
        load_encoder(ModelSource(f"local-dir:{tmp_path}"))
    with pytest.raises(ConfigError, match=r"encoder.pretrained is the folder .*; name a checkp"):
        load_encoder(ModelSource("ViT-S-32-alt", str(tmp_path), quick_gelu=False))
