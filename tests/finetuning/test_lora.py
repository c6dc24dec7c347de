from pathlib import Path

import pytest
import torch

from gare_cache.encoders.encoder import load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.errors import ConfigError
from gare_cache.finetuning.encoder_folder import write_encoder
from gare_cache.finetuning.lora import LowRank
from gare_cache.finetuning.settings import FinetuneSettings
from gare_cache.finetuning.towers import Towers
from gare_cache.settings import parse_settings
from tests.finetuning.worlds import tiny_encoder, video

LORA = {"encoder": "lora", "lora": {"rank": 4, "alpha": 8.0}}


def towers(folder: Path, **settings: object) -> Towers:
    return Towers(
        tiny_encoder(folder), parse_settings(FinetuneSettings, settings, section="finetune")
    )


def features(of: Towers) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = of.encoder.tokenize(["a dog", "two people talk"])
    with torch.no_grad():
        return of.frames(torch.from_numpy(video("v"))), of.sentences(tokens)


def disturb(of: Towers) -> None:
    """Let every low-rank difference be one."""
    torch.manual_seed(0)
    for module in of.modules():
        if isinstance(module, LowRank):
            torch.nn.init.normal_(module.up, std=0.05)


def test_it_starts_as_the_encoder(tmp_path: Path) -> None:
    adapted = towers(tmp_path, **LORA)
    plain = adapted.encoder
    frames, text = features(adapted)
    images = plain.preprocess(video("v"))
    assert torch.equal(frames, plain.encode_frames(images))
    tokens = plain.tokenize(["a dog", "two people talk"])
    assert torch.equal(text, plain.encode_tokens(tokens))


def test_merged_it_computes_the_same_under_the_same_names(tmp_path: Path) -> None:
    adapted = towers(tmp_path, **LORA)
    names = list(adapted.encoder.model.state_dict())
    disturb(adapted)
    before = features(adapted)
    start = features(Towers(adapted.encoder, FinetuneSettings(encoder="full")))
    assert sorted(adapted.weights) == sorted(names)
    merged = Towers(adapted.encoder, FinetuneSettings(encoder="full"))
    merged.model.load_state_dict(adapted.weights)
    after = features(merged)
    assert torch.equal(features(adapted)[0], before[0]), "merging changed the model itself"
    for adapted_feature, merged_feature, first in zip(before, after, start, strict=True):
        torch.testing.assert_close(merged_feature, adapted_feature, atol=1e-6, rtol=1e-6)
        assert (adapted_feature - first).abs().max() > 1e-3, "the difference changed nothing"


def test_only_the_differences_train(tmp_path: Path) -> None:
    adapted = towers(tmp_path, **LORA)
    assert adapted.trained
    assert all(name.endswith((".up", ".down")) for name, _ in adapted.trained)
    # In either tower: in_proj (64 -> 192), out_proj (64 -> 64), the MLP (64 -> 256 -> 64).
    a_block = 4 * (64 + 192 + 64 + 64 + 2 * (64 + 256))
    blocks = 1 + 4
    assert sum(parameter.numel() for _, parameter in adapted.trained) == blocks * a_block


@pytest.mark.parametrize("target", ["attention_in", "attention_out", "mlp"])
def test_each_target_matters(tmp_path: Path, target: str) -> None:
    adapted = towers(tmp_path, encoder="lora", lora={"rank": 2, "targets": [target]})
    start = features(adapted)
    disturb(adapted)
    for before, after in zip(start, features(adapted), strict=True):
        assert not torch.equal(before, after)


def test_the_written_encoder_is_the_trained_one(tmp_path: Path) -> None:
    adapted = towers(tmp_path / "start", **LORA)
    disturb(adapted)
    write_encoder(tmp_path / "made", adapted)
    made = load_encoder(ModelSource(f"local-dir:{tmp_path / 'made'}"))
    assert made.encoder_id != adapted.encoder.encoder_id
    assert made.preprocessing == adapted.encoder.preprocessing
    frames, text = features(adapted)
    torch.testing.assert_close(
        made.encode_frames(made.preprocess(video("v"))), frames, atol=1e-6, rtol=1e-6
    )
    tokens = made.tokenize(["a dog", "two people talk"])
    torch.testing.assert_close(made.encode_tokens(tokens), text, atol=1e-6, rtol=1e-6)


def test_the_last_blocks_with_norm_and_projection(tmp_path: Path) -> None:
    some = towers(tmp_path, encoder="last", last_blocks=1)
    names = {name for name, _ in some.trained}
    assert any(name.startswith("transformer.resblocks.3.") for name in names)
    assert not any(name.startswith("transformer.resblocks.2.") for name in names)
    assert {"visual.proj", "text_projection", "ln_final.weight", "visual.ln_post.bias"} <= names
    assert not {"logit_scale", "token_embedding.weight", "visual.conv1.weight"} & names


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora.rank is 65, but attn.in_proj_weight is 192 x 64"):
        towers(tmp_path, encoder="lora", lora={"rank": 65})
    with pytest.raises(ConfigError, match=r"last_blocks is 2, but a tower .* has 1 blocks"):
        towers(tmp_path, encoder="last", last_blocks=2)
