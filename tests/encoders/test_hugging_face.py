"""Text towers and tokenizers of Hugging Face, built small and kept in a folder."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import ConfigError, EncoderError, EnvironmentFailure
from tests.tiny import MODEL_CONFIG

transformers = pytest.importorskip("transformers", reason="transformers is not installed: [hf]")

WORDS = ["a", "dog", "two", "dogs", "run", "past", "the", "red", "car", "and"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0 to 3, as RoBERTa has them
CAPTIONS = ["a dog", *(" ".join(WORDS[i % 10] for i in range(n)) for n in (20, 76, 77, 120, 200))]
TEXT = {"context_length": 16, "vocab_size": 20, "width": 64, "heads": 1, "layers": 2}


def save_tokenizer(folder: Path, special: list[str] = SPECIAL, **changes: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(t, vocabulary[t]) for t in ("<s>", "</s>")]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **(names | changes))
    fast.save_pretrained(folder)


def save_model(folder: Path, text: dict[str, Any], *, tower: Any = None, **options: Any) -> Path:
    """A folder with random weights; ``tower`` is the configuration of a Hugging Face text tower."""
    folder.mkdir(exist_ok=True)
    if tower is not None:
        tower.save_pretrained(folder / "tower")
        text |= {"hf_model_name": "tower", "hf_model_pretrained": False}
    text |= {"hf_tokenizer_name": "nobody/nothing"}
    config = {**MODEL_CONFIG, "text_cfg": text, "custom_text": True, **options}
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    built = dict(json.loads(json.dumps(config)))
    del built["custom_text"]
    if tower is not None:
        built["text_cfg"]["hf_model_name"] = str(folder / "tower")
    model = import_open_clip().CustomTextCLIP(**built)
    torch.save(model.state_dict(), folder / "open_clip_model.pt")
    return folder


def open_clips_features(encoder: Encoder, folder: Path, context: int) -> Any:
    """Token ids of open_clip's own tokenizer through the whole text tower."""
    tokenizer = import_open_clip().get_tokenizer(f"local-dir:{folder}", context_length=context)
    with torch.no_grad():
        return encoder._model.encode_text(tokenizer(CAPTIONS))


def roberta(positions: int = 80, **changes: Any) -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.RobertaConfig(
        vocab_size=20, intermediate_size=32, max_position_embeddings=positions, **sizes, **changes
    )


def test_a_siglip_like_model_with_its_tokenizer_in_the_folder(tmp_path: Path) -> None:
    text = TEXT | {"pool_type": "last", "no_causal_mask": True, "proj_bias": True}
    folder = save_model(
        tmp_path, text | {"tokenizer_kwargs": {"clean": "canonicalize"}}, init_logit_bias=-10.0
    )
    with pytest.raises(EncoderError, match=r"no tokenizer can be loaded from .*nobody/nothing"):
        load_encoder(ModelSource(f"local-dir:{folder}"))
    save_tokenizer(folder)
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    assert (encoder.context_length, encoder.cuts_text) == (16, False)
    tokens = encoder.tokenize(["A dog!"])
    assert tokens.tolist() == [[0, 4, 5, 2] + [1] * 12]
    features = encoder.encode_tokens(encoder.tokenize(CAPTIONS))
    torch.testing.assert_close(features, open_clips_features(encoder, folder, 16))
    assert encoder.count_cut(CAPTIONS) == 5
    assert set(encoder.head_start()) >= {"logit_scale", "logit_bias"}


@pytest.mark.parametrize(
    ("positions", "configured", "context"), [(80, None, 78), (80, 79, 78), (80, 40, 40)]
)
def test_robertas_positions_count_two_more(
    positions: int, configured: int | None, context: int, tmp_path: Path
) -> None:
    text: dict[str, Any] = {"hf_proj_type": "linear"}
    text |= {} if configured is None else {"context_length": configured}
    folder = save_model(tmp_path, text, tower=roberta(positions))
    save_tokenizer(folder)
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    assert encoder.context_length == context
    features = encoder.encode_tokens(encoder.tokenize(CAPTIONS))
    torch.testing.assert_close(features, open_clips_features(encoder, folder, context))
    assert encoder.count_cut(CAPTIONS) == sum(
        len(caption.split()) + 2 > context for caption in CAPTIONS
    )
    short = load_encoder(ModelSource(f"local-dir:{folder}"), context_length=22)
    torch.testing.assert_close(
        short.encode_tokens(short.tokenize(CAPTIONS[:2])), features[:2], rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ConfigError, match=r"context_length is 79; .* allows 3 to 78"):
        load_encoder(ModelSource(f"local-dir:{folder}"), context_length=79)


def test_berts_positions_are_all_usable(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        pad_token_id=1,
    )
    folder = save_model(tmp_path, {"hf_proj_type": "mlp"}, tower=config)
    save_tokenizer(folder)
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    assert encoder.context_length == 40
    features = encoder.encode_tokens(encoder.tokenize(CAPTIONS))
    torch.testing.assert_close(features, open_clips_features(encoder, folder, 40))


def test_an_mt5_like_tower_has_no_context_length_of_its_own(tmp_path: Path) -> None:
    special = ["<pad>", "</s>", "<unk>", "<s>"]  # T5 pads with 0 and ends with 1
    config = transformers.MT5Config(
        vocab_size=20, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2
    )
    folder = save_model(tmp_path, {"hf_proj_type": "linear"}, tower=config)
    save_tokenizer(folder, special)
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    assert (encoder.context_length, encoder.notes) == (77, ())
    features = encoder.encode_tokens(encoder.tokenize(CAPTIONS))
    torch.testing.assert_close(features, open_clips_features(encoder, folder, 77))
    long = load_encoder(ModelSource(f"local-dir:{folder}"), context_length=202)
    assert (long.tokenize(CAPTIONS).shape, long.count_cut(CAPTIONS)) == ((6, 202), 0)
    with pytest.raises(ConfigError, match=r"context_length is 2; .* allows 3 or more"):
        load_encoder(ModelSource(f"local-dir:{folder}"), context_length=2)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_of_a_whole_text_tower(precision: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, {"hf_proj_type": "linear"}, tower=roberta())
    save_tokenizer(folder)
    whole, half = (
        load_encoder(ModelSource(f"local-dir:{folder}"), precision=p) for p in ("fp32", precision)
    )
    tokens = whole.tokenize(CAPTIONS)
    expected, found = whole.encode_tokens(tokens), half.encode_tokens(tokens)
    assert found.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999


def test_a_tokenizer_that_does_not_belong_to_the_tower(tmp_path: Path) -> None:
    folder = save_model(tmp_path, {"hf_proj_type": "linear"}, tower=roberta())
    source = ModelSource(f"local-dir:{folder}")
    save_tokenizer(folder, ["<s>", "<unk>", "</s>", "<pad>"])
    assert "pads with id 3, but its text tower masks id 1" in load_encoder(source).notes[0]
    save_tokenizer(folder, pad_token=None)
    with pytest.raises(EncoderError, match=r"the tokenizer of 'local-dir:.*' fails: .*padding"):
        load_encoder(source)
    save_tokenizer(folder, [*SPECIAL, *(f"<{i}>" for i in range(20))])
    with pytest.raises(EncoderError, match=r"gives id \d+, but its text tower knows 20 ids"):
        load_encoder(source)


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_model(tmp_path, dict(TEXT))
    monkeypatch.setitem(sys.modules, "transformers", None)
    for source in (
        ModelSource(f"local-dir:{folder}"),
        ModelSource("ViT-B-16-SigLIP", "webli"),
        ModelSource("roberta-ViT-B-32", "laion2b_s12b_b32k"),
    ):
        with pytest.raises(EnvironmentFailure, match=r"needs the package transformers; install"):
            load_encoder(source)


def test_the_weights_of_hugging_faces_own_clip(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    """The features of transformers' CLIPModel, from its own checkpoint."""
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 1}
    end = {"bos_token_id": 49406, "eos_token_id": 49407}
    torch.manual_seed(0)
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=sizes | end | {"num_hidden_layers": 4, "max_position_embeddings": 24},
            vision_config=sizes | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 16},
            projection_dim=64,
        )
    ).eval()
    model.save_pretrained(tmp_path)
    config = "open_clip_config.json"
    (tmp_path / config).write_bytes((tiny_encoder_dir / config).read_bytes())
    encoder = load_encoder(ModelSource(f"local-dir:{tmp_path}"))
    assert "are those of Hugging Face's CLIP" in encoder.notes[0]
    tokens = encoder.tokenize(CAPTIONS[:2])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        text = model.text_projection(
            model.text_model(tokens, attention_mask=torch.ones_like(tokens)).pooler_output
        )
        vision = model.visual_projection(model.vision_model(images).pooler_output)
    torch.testing.assert_close(encoder.encode_tokens(tokens), text, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.encode_frames(images), vision, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_of_sentencepiece_alone(tmp_path: Path) -> None:
    """As SigLIP's: pads with 1, which is also the end; no fast tokenizer's file beside it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = save_model(tmp_path, TEXT | {"vocab_size": 80, "pool_type": "last"})
    (tmp_path / "corpus").write_text("\n".join([" ".join(WORDS), "two cats and a fox"] * 50))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus"),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 5},
    )
    named = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    encoder = load_encoder(ModelSource(f"local-dir:{folder}"))
    tokens = encoder.tokenize(CAPTIONS)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    expected = [*processor.encode(CAPTIONS[0]), 1]
    assert tokens[0].tolist() == expected + [1] * (16 - len(expected))
    torch.testing.assert_close(
        encoder.encode_tokens(tokens), open_clips_features(encoder, folder, 16)
    )
