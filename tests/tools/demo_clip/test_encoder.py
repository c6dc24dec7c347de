import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gare_cache.demo import demo_encoder_dir
from gare_cache.encoders.open_clip_import import import_open_clip
from tools.demo_clip.encoder_scores import score_encoder
from tools.demo_clip.stills import sample_pairs
from tools.demo_clip.train_encoder import MODEL_CONFIG, PREPROCESS_CONFIG, train_encoder


def test_the_folder_is_found_without_torch() -> None:
    code = (
        "import sys, gare_cache.demo; print(gare_cache.demo.demo_encoder_dir());"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0
    assert Path(result.stdout.strip()) == demo_encoder_dir()


def test_the_shipped_weights_are_small_and_fit_the_code() -> None:
    files = {path.name: path for path in demo_encoder_dir().iterdir()}
    assert set(files) == {"open_clip_config.json", "open_clip_model.safetensors", "README.md"}
    assert sum(path.stat().st_size for path in files.values()) < 8_000_000
    config = json.loads(files["open_clip_config.json"].read_text())
    assert config == {"model_cfg": MODEL_CONFIG, "preprocess_cfg": PREPROCESS_CONFIG}


def test_open_clip_loads_the_shipped_encoder() -> None:
    open_clip = import_open_clip()
    name = f"local-dir:{demo_encoder_dir()}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    image = preprocess(Image.fromarray(np.full((96, 96, 3), 255, np.uint8)))
    assert image.shape == (3, 64, 64)
    assert image.max() == pytest.approx(2.0)
    tokens = open_clip.get_tokenizer(name)(["a red circle"])
    assert tokens.shape == (1, 32)
    with torch.no_grad():
        assert model.encode_text(tokens).shape == (1, 64)
        assert model.encode_image(image[None]).shape == (1, 64)


def test_the_shipped_encoder_matches_frames_with_captions() -> None:
    scores = score_encoder(demo_encoder_dir(), count=100)
    assert scores["retrieval"] > 65
    assert scores["relation"] > 80
    assert scores["binding"] > 85


def test_two_steps_of_training_write_a_loadable_folder(tmp_path: Path) -> None:
    losses: list[float] = []
    train_encoder(tmp_path, steps=2, batch_size=6, on_step=lambda _, loss: losses.append(loss))
    assert len(losses) == 2
    assert all(np.isfinite(losses))
    open_clip = import_open_clip()
    model = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    _, captions = sample_pairs(4, np.random.default_rng(0))
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(captions)
    with torch.no_grad():
        assert torch.isfinite(model.encode_text(tokens)).all()


def test_training_is_seeded(tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train_encoder(tmp_path / name, steps=1, batch_size=4, seed=seed)
    weights = {path.name: _digest(path) for path in tmp_path.iterdir()}
    assert weights["one"] == weights["same"] != weights["other"]


def _digest(folder: Path) -> bytes:
    return (folder / "open_clip_model.safetensors").read_bytes()
