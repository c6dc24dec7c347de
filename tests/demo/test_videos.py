import csv
import hashlib
import json
from pathlib import Path

import av
import numpy as np
import pytest

from gare_cache.demo.videos import draw_dataset
from gare_cache.errors import ConfigError

COUNTS = {"num_train": 6, "num_val": 3, "num_test": 4}


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_videos_decode_and_captions_name_them(tmp_path: Path) -> None:
    annotations = draw_dataset(tmp_path, **COUNTS)
    assert annotations == tmp_path / "annotations.csv"
    with annotations.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video", "caption", "split"]
    assert len(rows) == 3 * 13
    for row in rows:
        path = tmp_path / "videos" / row["split"] / row["video"]
        assert path.is_file()
        assert path.stat().st_size < 20_000
    for path in tmp_path.glob("videos/*/*.mp4"):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
            times = [float(frame.time) for frame in frames]
        assert len(frames) == 16
        assert (frames[0].width, frames[0].height) == (96, 96)
        np.testing.assert_allclose(times, np.arange(16) / 8)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "one", **COUNTS, workers=1)
    draw_dataset(tmp_path / "two", **COUNTS, workers=3)
    draw_dataset(tmp_path / "other", **COUNTS, seed=1)
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    name = "videos/train/train_00000.mp4"
    assert _digests(tmp_path / "one")[name] != _digests(tmp_path / "other")[name]


def test_only_what_is_missing_is_drawn(tmp_path: Path) -> None:
    draw_dataset(tmp_path, **COUNTS)
    before = _digests(tmp_path)
    kept = tmp_path / "videos/val/val_00001.mp4"
    written = kept.stat().st_mtime_ns
    (tmp_path / "videos/train/train_00002.mp4").unlink()
    calls: list[tuple[int, int]] = []
    draw_dataset(tmp_path, **COUNTS, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(13, 13)]
    assert _digests(tmp_path) == before
    assert kept.stat().st_mtime_ns == written
    draw_dataset(tmp_path, **COUNTS, on_progress=lambda done, total: calls.append((done, total)))
    assert len(calls) == 1


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "cut", **COUNTS, on_progress=interrupt)
    assert json.loads((tmp_path / "cut/dataset.json").read_text())["complete"] is False
    draw_dataset(tmp_path / "cut", **COUNTS)
    draw_dataset(tmp_path / "whole", **COUNTS)
    assert _digests(tmp_path / "cut") == _digests(tmp_path / "whole")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    draw_dataset(tmp_path, **COUNTS)
    with pytest.raises(ConfigError, match=r"asked for seed=1 \(there: 0\); delete that folder"):
        draw_dataset(tmp_path, **COUNTS, seed=1)
    with pytest.raises(ConfigError, match=r"num_test=5 \(there: 4\)"):
        draw_dataset(tmp_path, **{**COUNTS, "num_test": 5})


def test_foreign_and_broken_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "videos/train").mkdir(parents=True)
    (tmp_path / "videos/train/mine.mp4").touch()
    with pytest.raises(ConfigError, match=r"holds videos but no dataset\.json"):
        draw_dataset(tmp_path, **COUNTS)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(ConfigError, match="is not readable"):
        draw_dataset(tmp_path, **COUNTS)


def test_wrong_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'num_val': 0"):
        draw_dataset(tmp_path, **{**COUNTS, "num_val": 0})
    with pytest.raises(ConfigError, match="must not be negative; got -1"):
        draw_dataset(tmp_path, **COUNTS, seed=-1)
