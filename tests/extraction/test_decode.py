"""Whatever one video does, it is that video's recorded failure and the others are encoded."""

import pickle

import av
import pytest

from gare_cache.encoders.preprocessing import Preprocessing
from gare_cache.errors import ConfigError
from gare_cache.extraction import decode
from gare_cache.manifest.tables import read_manifest
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.video import decoders, decoding, probing
from tests.tiny import change_params, video_source, workspace, write_video
from tests.video import bars

ODD = [
    RuntimeError("odd"),
    ValueError("odd"),
    IndexError("odd"),
    ZeroDivisionError("odd"),
    AssertionError(),
    RecursionError("odd"),
    NotImplementedError("odd"),
    MemoryError(),
    OSError(5, "Input/output error"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"),
    av.error.InvalidDataError(1094995529, "odd"),
    av.error.EOFError(541478725, "odd"),
    av.error.PatchWelcomeError(1163346256, "odd"),
]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "one.mp4"
    write_video(path, seed=0)
    return video_source(path)


def decode_one(source):
    preprocessing = Preprocessing(
        "exact", (32, 32), (0.5,) * 3, (0.25,) * 3, "bicubic", "shortest", 0
    )
    return decode.decode_video(
        source, sampler="segment_centre", max_frames=4, preprocessing=preprocessing
    )


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("module", "name"),
    [(probing, "_scan_packets"), (probing, "_orientation"), (decoding, "select_frames")],
)
def test_any_exception_is_the_failure_of_one_video(source, monkeypatch, module, name, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, name, fail)
    video = decode_one(source)
    assert video.frames is None
    assert "one.mp4" in video.reason
    assert "\n" not in video.reason
    assert pickle.loads(pickle.dumps(video)).reason == video.reason


def test_any_exception_of_the_decoder(source, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("two\nlines")

    monkeypatch.setitem(decoders.DECODERS, "pyav", fail)
    monkeypatch.setitem(decoders.DECODERS, "decord", fail)
    assert decode_one(source).reason.endswith("cannot be decoded: RuntimeError: two lines")


def test_wrong_settings_are_not_taken_for_a_failed_video(source, monkeypatch):
    def fail(*args, **kwargs):
        raise ConfigError("sampler")

    monkeypatch.setattr(decoding, "select_frames", fail)
    with pytest.raises(ConfigError):
        decode_one(source)


def test_odd_files_do_not_keep_the_others_from_being_encoded(project):
    train = project / "videos" / "train"
    for number in range(5):
        (train / f"train{number}.mp4").unlink()
    bars.write_camera_jpegs(train / "train0.avi", count=6, orientation=6)
    bars.write_camera_jpegs(train / "train1.mov", count=6, orientation=6)
    bars.truncate(bars.write_bars(train / "train2.ts", "mpeg2video", count=40))
    bars.truncate(bars.write_bars(train / "train3.mp4", "mpeg4", count=40))
    bars.animated_webp(train / "train4.webp").rename(train / "train4.mkv")
    change_params(project, extract__max_failed_percent=30)
    place = workspace(project)
    prepare(place)
    features = extract(place, workers=2)
    assert features["videos"] == {"encoded": 11, "failed": 3, "missing": 0}


def test_any_exception_in_a_worker_process(project, monkeypatch, tmp_path):
    """Each worker starts with this module, in which the probe of some files raises."""
    start = tmp_path / "start"
    start.mkdir()
    (start / "sitecustomize.py").write_text(_RAISING)
    monkeypatch.syspath_prepend(str(start))
    change_params(project, extract__max_failed_percent=50)
    place = workspace(project)
    prepare(place)
    features = extract(place, workers=2)
    assert features["videos"] == {"encoded": 9, "failed": 5, "missing": 0}
    assert len(read_manifest(place.manifest).videos) == 14


_RAISING = """
import av
from pathlib import Path

real = av.open


def odd(file, *args, **kwargs):
    errors = {
        "train0": EOFError(),
        "train1": RuntimeError("odd"),
        "train2": UnicodeDecodeError("utf-8", b"\\xff", 0, 1, "odd"),
        "train3": av.error.PatchWelcomeError(1163346256, "odd"),
        "val0": AssertionError(),
    }
    if Path(file.name).stem in errors:
        raise errors[Path(file.name).stem]
    return real(file, *args, **kwargs)


av.open = odd
"""
