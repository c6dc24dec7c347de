"""A query is encoded by the kept text tower as by the encoder, or by the encoder itself."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gare_cache.api import load_index
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.settings import EncoderSettings
from gare_cache.errors import FingerprintMismatch
from gare_cache.extraction.sentences import encode_sentences
from gare_cache.search import opening
from gare_cache.search.hits import SearchHit
from gare_cache.search.kept_text import KeptText, encoder_stamp
from gare_cache.search.query import make_query
from gare_cache.search.searcher import Searcher
from gare_cache.stages.search import index, index_folder
from tests.tiny import MODEL_CONFIG, change_params, make_tiny_encoder, workspace, write_video

CPU = torch.device("cpu")
SENTENCES = ("red", "a man walks, it's 9 o'clock", "two dogs & a cat " * 9, "naïve", "")
WIDER = {"width": 64, "heads": 2, "ls_init_value": 0.5, "mlp_ratio": 2.0}
SLOW = {"open_clip", "torchvision", "transformers", "timm", "torch._dynamo", "zarr", "av"}
FILE = ".gare/search/text_tower.safetensors"


def tiny(folder: Path, *, seed: int = 0, text: dict[str, Any] | None = None, **top: Any) -> Path:
    config = {**MODEL_CONFIG, **top, "text_cfg": {**MODEL_CONFIG["text_cfg"], **(text or {})}}
    return make_tiny_encoder(folder, seed=seed, config=config)


def load(folder: Path, precision: str = "fp32") -> Encoder:
    return load_encoder(ModelSource(f"local-dir:{folder}"), precision=precision)


def stamp(folder: Path, **settings: Any) -> str:
    model = f"local-dir:{folder}"
    return encoder_stamp(ModelSource(model), EncoderSettings(model=model, **settings), CPU)


@pytest.mark.parametrize(
    "model",
    [
        {"quick_gelu": True},
        {"quick_gelu": False},
        {"quick_gelu": False, "text": WIDER},
        {"custom_text": True, "text": {"proj_bias": True}},
        {"custom_text": True, "text": {"proj_type": "none"}},
    ],
)
def test_features_and_words_are_the_encoders(model: dict[str, Any], tmp_path: Path) -> None:
    encoder = load(tiny(tmp_path / "encoder", **model))
    kept = KeptText(tmp_path, "stamp", encoder.encoder_id, CPU)
    kept.keep(encoder)
    text = kept.load()
    assert text is not None
    assert (text.dim, text.context_length) == (encoder.dim, encoder.context_length)
    assert text.encoder_id == encoder.encoder_id
    assert text.count_cut(SENTENCES) == encoder.count_cut(SENTENCES) == 1
    for batch, with_words in ((1, False), (3, False), (5, True)):
        found, expected = (
            encode_sentences(
                of, SENTENCES, device=CPU, batch=batch, with_words=False, keep_words=with_words
            )
            for of in (text, encoder)
        )
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)  # float16
    tokens = encoder.tokenize(SENTENCES)
    assert torch.equal(text.tokenize(SENTENCES), tokens)
    expected_features = encoder.encode_tokens(tokens)
    difference = (text.encode_tokens(tokens) - expected_features).norm()
    assert difference <= 1e-6 * expected_features.norm()


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ({}, "bf16"),
        ({"quick_gelu": False, "text": {"act_kwargs": {"approximate": "tanh"}}}, "fp32"),
        ({"custom_text": True, "text": {"no_causal_mask": True, "pool_type": "last"}}, "fp32"),
        ({"text": {"tokenizer_kwargs": {"clean": "whitespace"}}}, "fp32"),
    ],
)
def test_other_towers_are_not_kept(model: dict[str, Any], precision: str, tmp_path: Path) -> None:
    encoder = load(tiny(tmp_path / "encoder", **model), precision)
    kept = KeptText(tmp_path, "stamp", encoder.encoder_id, CPU)
    assert not kept.is_refused
    kept.keep(encoder)
    assert kept.is_refused
    assert kept.load() is None


def test_the_stamp_is_of_settings_and_files(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "encoder")
    first = stamp(folder)
    assert stamp(folder) == first
    assert stamp(folder, context_length=16) != first
    file = folder / "open_clip_model.safetensors"
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1))
    assert stamp(folder) != first
    checkpoint = ModelSource("ViT-B-32", str(file))
    settings = EncoderSettings(model="ViT-B-32", pretrained=str(file))
    before = encoder_stamp(checkpoint, settings, CPU)
    os.utime(file, ns=(0, 0))
    assert encoder_stamp(checkpoint, settings, CPU) != before


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    for number in range(3):
        write_video(folder / f"videos/{number}.mp4", seed=number)
    project = folder / "project"
    index_folder(folder / "videos", project, encoder="demo")
    tiny(project / "encoder")
    change_params(project, encoder__model="local-dir:encoder")
    index(workspace(project), device="cpu", workers=1)
    return project


@pytest.fixture
def project(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    shutil.copytree(indexed, tmp_path / "project")
    return tmp_path / "project"


class Loaded:
    """Counts how often the whole encoder is loaded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        inner = opening.project_encoder

        def counting(*arguments: Any, **options: Any) -> Encoder:
            self.times += 1
            return inner(*arguments, **options)

        monkeypatch.setattr(opening, "project_encoder", counting)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    return Loaded(monkeypatch)


def by_encoder(project: Path, sentence: str) -> list[SearchHit]:
    """Search with the whole encoder."""
    searcher = load_index(project, device="cpu")
    whole = Searcher(
        searcher._videos,
        searcher._store,
        searcher._encoder,
        searcher._encoder,
        searcher._settings,
        searcher._calibration,
    )
    return list(whole.search(sentence).hits)


def test_after_indexing_no_search_loads_the_encoder(project: Path, loaded: Loaded) -> None:
    sentence = "a red circle " * 20
    searcher = load_index(project, device="cpu")
    result = searcher.search(sentence)
    assert loaded.times == 0
    assert "the query is longer than 24 tokens: the rest is cut" in result.notes
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(project / "black.png")
    searcher.search(make_query("red", images=[f"{project}/black.png"]))
    assert loaded.times == 1
    assert list(result.hits) == by_encoder(project, sentence)


def test_the_process_of_a_search_imports_no_open_clip(project: Path) -> None:
    check = (
        "import sys; from gare_cache import cli\n"
        f"try: cli.app(['search', 'red', '-p', {str(project / 'params.yaml')!r}])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('imported', sorted({SLOW} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


@pytest.mark.parametrize("change", ["settings", "time", "other features"])
def test_a_stale_tower_is_replaced(project: Path, loaded: Loaded, change: str) -> None:
    before = (project / FILE).read_bytes()
    if change == "settings":
        change_params(project, encoder__trust_checkpoint=True)
    elif change == "time":
        os.utime(project / "encoder/open_clip_model.safetensors", ns=(0, 0))
    else:
        tiny(project / "encoder", seed=1)
        index(workspace(project), device="cpu", workers=1)
        assert (
            load_index(project).gallery.cache.encoder_id.encode() in (project / FILE).read_bytes()
        )
        loaded.times -= 1
    load_index(project, device="cpu").search("red")
    assert loaded.times == (change != "other features")
    assert (project / FILE).read_bytes() != before
    load_index(project, device="cpu").search("red")
    assert loaded.times == (change != "other features")


def test_other_weights_of_the_same_size_are_refused(project: Path) -> None:
    file = project / "encoder/open_clip_model.safetensors"
    size = file.stat().st_size
    tiny(project / "encoder", seed=1)
    assert file.stat().st_size == size
    with pytest.raises(FingerprintMismatch, match="the settings describe encoder"):
        load_index(project, device="cpu").search("red")


def damages(content: bytes) -> dict[str, bytes]:
    header = int.from_bytes(content[:8], "little")
    flipped = {
        "record": content.index(b"encoder_id") + 20,
        "shape": content.index(b'"shape":[') + 10,
        "first weight": 8 + header,
        "last weight": len(content) - 1,
    }
    return {
        "missing": b"",
        "cut": content[:-100],
        "cut in the header": content[: header // 2],
        "longer": content + bytes(8),
        "no record": content.replace(b'"record"', b'"retort"', 1),
        **{name: _flip(content, place) for name, place in flipped.items()},
    }


def _flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_damaged_tower_is_written_again(project: Path, loaded: Loaded) -> None:
    (project / FILE).unlink()
    expected = list(load_index(project, device="cpu").search("red").hits)
    content = (project / FILE).read_bytes()
    for times, (name, damaged) in enumerate(damages(content).items(), 2):
        (project / FILE).write_bytes(damaged)
        assert list(load_index(project, device="cpu").search("red").hits) == expected, name
        assert loaded.times == times, name
        assert (project / FILE).read_bytes() == content, name


def test_where_nothing_can_be_written_the_encoder_is_used(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / FILE).unlink()
    (project / FILE).mkdir()
    assert load_index(project, device="cpu").search("red").hits
    assert "note: the encoder's text tower is not kept, which" in capsys.readouterr().err
