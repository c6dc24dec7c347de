"""Models that have to be downloaded, on a machine without a network."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gare_cache.encoders import hub
from gare_cache.encoders.encoder import load_encoder
from gare_cache.encoders.hub import hub_files
from gare_cache.encoders.loading import ModelSource
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import EnvironmentFailure


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing listens on the hub's address, and no copy of any file is on the machine."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_asked", {})


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    "source",
    [
        ModelSource("ViT-B-32", "openai"),
        ModelSource("ViT-B-32", "laion2b_s34b_b79k"),
        ModelSource("hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"),
    ],
)
def test_without_a_network_one_line_within_seconds(
    source: ModelSource, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    import_open_clip()
    started = time.monotonic()
    with pytest.raises(EnvironmentFailure) as error:
        load_encoder(source)
    assert time.monotonic() - started < 8  # the hub's own retries take 24 s and more a file
    assert "cannot be downloaded (no copy on this machine, and no network)" in str(error.value)
    assert "encoder.pretrained: /path/model.pt" in str(error.value)
    assert "encoder.model: demo" in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_the_hub_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFailure, match="HF_HUB_OFFLINE is set"), hub_files("a file"):
        raise OSError("not here")


@pytest.mark.usefixtures("_no_network")
def test_a_hub_that_never_answers_costs_seconds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        over.wait(60)
        answered.append(args)

    calls: list[Any] = []
    answered: list[Any] = []
    over = threading.Event()
    monkeypatch.setattr(hub, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("huggingface_hub.utils.get_session", hang)
    for _ in range(3):
        with pytest.raises(EnvironmentFailure, match="no network"), hub_files("a file"):
            raise OSError("not here")
    assert len(calls) == 1
    assert not answered, "the answer was waited for"
    over.set()


@pytest.mark.usefixtures("_no_network")
def test_copies_on_the_machine_are_used_without_a_network(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    repository = tmp_path / "cache/models--somebody--tiny"
    snapshot = repository / "snapshots/0123"
    snapshot.mkdir(parents=True)
    for path in tiny_encoder_dir.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123")
    local = load_encoder(ModelSource(f"local-dir:{tiny_encoder_dir}"))
    assert load_encoder(ModelSource("hf-hub:somebody/tiny")).encoder_id == local.encoder_id


def test_a_tags_preprocessing_and_activation_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_clip = import_open_clip()
    tag = {"hf_hub": "x/y", "mean": (0.1, 0.2, 0.3), "resize_mode": "squash", "quick_gelu": True}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-S-32-alt", {"mine": tag})
    import torch

    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(open_clip, "download_pretrained", lambda cfg: tmp_path / "weights.pt")
    encoder = load_encoder(ModelSource("ViT-S-32-alt", "mine"))
    assert encoder.identity["quick_gelu"] is True
    assert encoder.preprocessing.mean == (0.1, 0.2, 0.3)
    assert encoder.preprocessing.resize_mode == "squash"


def test_a_server_that_falls_silent_in_a_download_ends_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    open_clip = import_open_clip()
    monkeypatch.setattr(hub, "_is_reachable", lambda endpoint: True)
    monkeypatch.setattr(hub, "_SILENCE_SECONDS", 0.3)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/model.pt"
        monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda model, tag: {"url": url})
        with pytest.raises(EnvironmentFailure, match=r"cannot be downloaded \(.*timed out"):
            hub.tag_weights(open_clip, "ViT-B-32", "openai", download=True)
    assert socket.getdefaulttimeout() is None
