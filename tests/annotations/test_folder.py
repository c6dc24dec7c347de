from pathlib import Path

import pytest

from gare_cache.annotations.readers import read_annotations
from gare_cache.errors import AnnotationError
from gare_cache.manifest.build import build_manifest


def test_videos_in_any_subfolder_are_listed_without_captions(tmp_path: Path) -> None:
    for name in ("b.mp4", "sub/a.MKV", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = read_annotations("folder", tmp_path)
    assert [(r.video, r.caption, r.split) for r in found.records] == [
        ("b.mp4", None, "test"),
        ("sub/a.MKV", None, "test"),
    ]
    assert found.notes == ("2 videos without captions: to search, not to train on",)
    manifest = build_manifest(found.records, [tmp_path], val_fraction=0, test_fraction=0)
    assert manifest.videos["video_id"].to_pylist() == ["b", "sub/a"]
    assert len(manifest.captions) == 0


@pytest.mark.parametrize("name", ["empty", "file.mp4", "gone"])
def test_what_holds_no_videos_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.mp4").write_bytes(b"x")
    with pytest.raises(AnnotationError, match=r"holds no video files|must be a folder"):
        read_annotations("folder", tmp_path / name)


def test_a_captions_file_that_nobody_filled_in_lists_videos(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,\nb.mp4,  \n")
    found = read_annotations("generic", tmp_path / "captions.csv")
    assert [(r.video, r.caption) for r in found.records] == [("a.mp4", None), ("b.mp4", None)]
    assert found.notes == (
        "captions.csv has no captions yet: the videos can be searched, not trained on",
    )
    for captions in ("each", "paragraph"):
        manifest = build_manifest(
            found.records, [], val_fraction=0.1, test_fraction=0.1, captions=captions
        )
        assert len(manifest.videos) == 2
        assert len(manifest.captions) == 0
