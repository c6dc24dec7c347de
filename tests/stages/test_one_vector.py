"""Features of one vector an item, from import to report: made ones, and real pairs of COCO."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gare_cache.files import read_json
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.exchange import import_features
from gare_cache.stages.import_request import ImportRequest
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.score import score
from gare_cache.stages.train import train
from tests.tiny import workspace

SPLITS = {"train": 0.6, "val": 0.1, "test": 0.3}


def make_project(folder: Path, images: Any, texts: Any) -> Path:
    """Write a project whose n-th image, a video of one frame, belongs to the n-th text."""
    count = len(images)
    splits = [name for name, share in SPLITS.items() for _ in range(round(share * count))]
    ids = [f"pair{number:03}" for number in range(count)]
    rows = [f"{id_},text of {id_},{split}\n" for id_, split in zip(ids, splits, strict=True)]
    folder.mkdir()
    (folder / "captions.csv").write_text("video,caption,split\n" + "".join(rows))
    np.savez(
        folder / "features.npz",
        frames=images[:, None],
        video_ids=ids,
        text=texts,
        caption_ids=[f"{id_}#0" for id_ in ids],
    )
    settings = {
        "dataset": {"name": "pairs", "annotations": "captions.csv", "video_roots": []},
        "head": {
            "projection": "linear",
            "aggregator": {"name": "mean"},
            "pooling": {"name": "mean"},
            "gap": None,
        },
        "train": {
            "num_frames": 1,
            "epochs": 2,
            "batch_size": 10,
            "threads": 1,
            "loss": {name: {"weight": 0.0} for name in ("ib", "eps", "dir")},
        },
        "evaluate": {"resamples": 200},
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run(folder: Path) -> dict[str, Any]:
    space = workspace(folder)
    prepare(space)
    import_features(space, ImportRequest([folder / "features.npz"], encoder_id="CLIP"))
    train(space, device="cpu")
    evaluate(space, device="cpu")
    report(space)
    found: dict[str, Any] = read_json(space.evaluation / "metrics.json")["methods"]
    return found


def test_one_vector_an_item_goes_from_import_to_report(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(50, 16)).astype(np.float32)
    found = run(make_project(tmp_path / "p", images, images + 0.1))
    assert found["zero_shot"]["t2v"]["R@1"] == 100.0


def test_real_pairs_have_their_published_figures(tmp_path: Path, shared_data_dir: Path) -> None:
    images, texts = np.load(shared_data_dir / "features/modality_gap/features_clip.npy")
    np.save(tmp_path / "cosines.npy", texts @ images.T)
    lines = score(tmp_path / "cosines.npy")
    t2v, v2t = (next(line for line in lines if line.startswith(d)) for d in ("Text", "Video"))
    assert t2v.split()[3] == "50.6"
    assert v2t.split()[3] == "55.2"
    found = run(make_project(tmp_path / "p", images, texts))
    assert found["zero_shot"]["t2v"]["R@1"] == pytest.approx(70.67, abs=0.01)
    assert found["zero_shot"]["v2t"]["R@1"] == pytest.approx(75.33, abs=0.01)
    gap = read_json(tmp_path / "p/outputs/evaluation/analysis.json")["modality_gap"]["zero_shot"]
    assert gap["cosine"] == pytest.approx(0.309, abs=0.001)
    assert gap["gap"] == pytest.approx(0.864, abs=0.001)
