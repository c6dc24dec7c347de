"""What a search reads of a gallery is what the cache holds, and no more."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from gare_cache.data.frames import even_positions
from gare_cache.search.gallery import Gallery, GalleryVideo, GalleryVideos

COUNTS = np.array([3, 7, 1, 5], np.int32)
LAYOUT_FRAMES, DIM = 16, 4


class Stored:
    """A cache of four videos."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.features = np.full((4, LAYOUT_FRAMES, DIM), np.nan, np.float16)
        self.seconds = np.full((4, LAYOUT_FRAMES), np.nan, np.float32)
        self.read: list[int] = []
        for row, count in enumerate(COUNTS):
            self.features[row, :count] = generator.normal(size=(count, DIM))
            self.seconds[row, :count] = np.arange(count) / 2

    def num_frames(self, ids: list[str]) -> Any:
        return COUNTS[[int(id_) for id_ in ids]]

    def frames(self, ids: list[str], most: int) -> Any:
        self.read.append(most)
        return self.features[[int(id_) for id_ in ids], :most]

    def times(self, ids: list[str], most: int) -> Any:
        return self.seconds[[int(id_) for id_ in ids], :most]


def gallery(stored: Stored, paths: list[Path | None] | None = None) -> Gallery:
    videos = [
        GalleryVideo(str(row), row, "train", path, 0.0, None)
        for row, path in enumerate(paths or [None] * 4)
    ]
    return Gallery(stored, GalleryVideos.of(videos), 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("places", [[0, 2], [3, 1, 0], [2]])
@pytest.mark.parametrize("most", [2, 4, LAYOUT_FRAMES])
def test_frames_and_seconds_are_those_of_the_cache(places: list[int], most: int) -> None:
    stored = Stored()
    found, (frames, mask) = gallery(stored), gallery(stored).frames(places, most)
    times = found.times(places, most)
    assert stored.read == [COUNTS[places].max()]
    for place, of, real, seconds in zip(places, frames, mask, times, strict=True):
        wanted = min(most, int(COUNTS[place]))
        kept = even_positions(torch.tensor([COUNTS[place]]), wanted)[0].numpy()
        assert int(real.sum()) == len(kept)
        np.testing.assert_array_equal(of[real].numpy(), stored.features[place, kept])
        np.testing.assert_array_equal(seconds[real].numpy(), stored.seconds[place, kept])
        assert not of[~real].any()
        assert seconds[~real].isnan().all()


def test_frames_without_seconds_stay_without(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = Stored()
    stored.seconds[:] = np.nan
    assert gallery(stored).times([1], 4).isnan().all()  # they became 0 s


def test_files_are_resolved_through_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.mp4").touch()
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "real/a.mp4")
    paths = [tmp_path / "folder/a.mp4", tmp_path / "link.mp4", Path("gone/../b.mp4"), None]
    expected = [path and path.resolve() for path in paths]
    assert gallery(Stored(), paths).files == expected


def test_videos_are_those_of_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "project").mkdir()
    for name in ("here/a.mp4", "project/a.mp4", "project/b.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "here")
    paths = ["a.mp4", "b.mp4", "gone.mp4", "/gone/c.mp4", None]
    columns = {
        **{"video_id": list("abcde"), "split": ["train", "val", "test", "test", "val"]},
        **{"path": paths, "start_seconds": [None, 1.5, 2.0, None, None]},
        **{"end_seconds": [None, 2.5, 3.0, None, None], "annotated": paths},
    }
    project = tmp_path / "project"
    videos = GalleryVideos(pa.table(columns), np.array([7, 5, 3, 2, 9]), project)
    expected = [
        GalleryVideo("a", 7, "train", Path("a.mp4"), 0.0, None),
        GalleryVideo("b", 5, "val", project / "b.mp4", 1.5, 2.5),
        GalleryVideo("c", 3, "test", Path("gone.mp4"), 2.0, 3.0),
        GalleryVideo("d", 2, "test", Path("/gone/c.mp4"), 0.0, None),
        GalleryVideo("e", 9, "val", None, 0.0, None),
    ]
    assert list(videos) == [videos[place] for place in range(5)] == videos[:] == expected
    assert videos[-1] == expected[-1]
    assert len(videos) == 5
    assert videos.ids([3, 0]) == ["d", "a"]
    assert videos.paths() == [video.path for video in expected]
    assert videos.splits().tolist() == columns["split"]
    assert list(GalleryVideos.of(expected)) == expected
    with pytest.raises(IndexError):
        videos[5]
