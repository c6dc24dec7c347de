import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import Layout
from gare_cache.cache.writer import PendingUnit
from gare_cache.encoders.encoder import Encoder, load_encoder
from gare_cache.encoders.loading import ModelSource
from gare_cache.extraction import decode as decode_videos
from gare_cache.extraction.decode import DecodedVideo, decode_in_workers, decode_video
from gare_cache.extraction.encode import (
    EncodedUnit,
    Faint,
    committing,
    encode_videos,
    faint_features,
)
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from tests.processes import jobs
from tests.tiny import change_params, video_source, workspace, write_video

NUM_VIDEOS, MAX_FRAMES, BATCH = 9, 4, 7


@pytest.fixture(scope="module")
def encoder(tiny_encoder_dir: Path) -> Encoder:
    return load_encoder(ModelSource(f"local-dir:{tiny_encoder_dir}"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Videos of different lengths, the third one damaged."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS):
        write_video(folder / f"{number}.mp4", seed=number, num_frames=2 + number)
    (folder / "2.mp4").write_bytes(b"no video at all")
    return [video_source(folder / f"{number}.mp4") for number in range(NUM_VIDEOS)]


def sampling(encoder: Encoder) -> dict[str, Any]:
    return {
        "sampler": "segment_centre",
        "max_frames": MAX_FRAMES,
        "preprocessing": encoder.preprocessing,
    }


def encode(encoder: Encoder, decoded: Iterator[DecodedVideo], *, count: int) -> EncodedUnit:
    return encode_videos(
        encoder,
        range(10, 10 + count),
        decoded,
        layout=Layout(max_frames=MAX_FRAMES, dim=encoder.dim),
        batch_frames=BATCH,
        on_video=lambda _: None,
    )


@pytest.fixture(scope="module")
def in_this_process(encoder: Encoder, sources: list[dict[str, Any]]) -> EncodedUnit:
    decoded = map(partial(decode_video, **sampling(encoder)), sources)
    return encode(encoder, decoded, count=NUM_VIDEOS)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_bytes_do_not_depend_on_the_number_of_workers(
    encoder: Encoder, sources: list[dict[str, Any]], in_this_process: EncodedUnit, workers: int
) -> None:
    with decode_in_workers(
        sources, **sampling(encoder), workers=workers, deadline_seconds=60
    ) as decoded:
        found = encode(encoder, decoded, count=NUM_VIDEOS)
    assert found.outcomes == in_this_process.outcomes
    assert found.thumbnails == in_this_process.thumbnails
    for name, value in in_this_process.values.items():
        assert found.values[name].tobytes() == value.tobytes()


def test_frames_are_encoded_in_batches_of_one_size_in_their_order(
    encoder: Encoder, sources: list[dict[str, Any]], in_this_process: EncodedUnit
) -> None:
    decoded = [decode_video(source, **sampling(encoder)) for source in sources]
    frames = torch.cat([encoder.to_images(v.frames) for v in decoded if v.frames is not None])
    padded = torch.cat([frames, frames.new_zeros(-len(frames) % BATCH, *frames.shape[1:])])
    features = torch.cat([encoder.encode_frames(batch) for batch in padded.split(BATCH)])
    found = in_this_process.values["video/frames"]
    written = ~np.isnan(found).any(axis=2)
    expected = features[: len(frames)].numpy().astype("<f2")
    np.testing.assert_array_equal(found[written], expected)
    np.testing.assert_array_equal(
        in_this_process.values["video/num_frames"], [len(v.times) for v in decoded]
    )
    assert written.sum(axis=1).tolist() == [len(v.times) for v in decoded]
    assert set(in_this_process.thumbnails) == set(range(10, 19)) - {12}
    assert "2.mp4" in str(in_this_process.outcomes[2].reason)
    assert in_this_process.outcomes[3].digest is not None
    assert set(in_this_process.seconds) == {"decode", "wait", "encode"}


def test_a_unit_of_failures_alone_has_no_features(encoder: Encoder) -> None:
    failed = DecodedVideo(None, np.empty(0, np.float32), reason="damaged")
    unit = encode(encoder, iter([failed, failed]), count=2)
    assert np.isnan(unit.values["video/frames"]).all()
    assert [outcome.reason for outcome in unit.outcomes] == ["damaged", "damaged"]


def test_features_that_are_not_finite_in_float16_are_a_failure(
    encoder: Encoder, sources: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = [decode_video(sources[number], **sampling(encoder)) for number in (0, 1)]
    num_frames = len(decoded[0].times)

    def huge(self: Encoder, images: torch.Tensor) -> torch.Tensor:
        features = torch.zeros(len(images), self.dim)
        features[num_frames] = 1e6
        return features

    monkeypatch.setattr(Encoder, "encode_frames", huge)
    unit = encode(encoder, iter(decoded), count=2)
    assert [outcome.reason for outcome in unit.outcomes] == [
        None,
        "its features are not finite in float16",
    ]
    assert unit.values["video/num_frames"].tolist() == [num_frames, 0]


def test_a_video_that_hangs_is_a_failure_with_a_reason(
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("val0", "val1", "val2"):
        write_video(tmp_path / f"{name}.mp4", seed=1)
    given = [video_source(path) for path in sorted(tmp_path.iterdir())]
    monkeypatch.setattr(decode_videos, "decode_video", jobs.decode_all_but_one)
    with decode_in_workers(given, **sampling(encoder), workers=2, deadline_seconds=5) as decoded:
        reasons = [video.reason for video in decoded]
    assert reasons == [None, f"{tmp_path / 'val1.mp4'}: decoding took longer than 5 s", None]


def test_an_extraction_records_a_missed_deadline_and_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_params(project, extract__deadline_seconds=5.0, extract__max_failed_percent=10)
    prepare(workspace(project))
    with monkeypatch.context() as patch:
        patch.setattr(decode_videos, "decode_video", jobs.decode_all_but_one)
        features = extract(workspace(project), workers=2)
    assert features["videos"] == {"encoded": 13, "failed": 1, "missing": 0}
    cache = open_cache(project / "cache" / features["folder"])
    path = project / "videos/val/val1.mp4"
    assert cache.failures() == {"val1": f"{path}: decoding took longer than 5 s"}

    change_params(project, extract__deadline_seconds=60.0)
    assert extract(workspace(project))["folder"] == features["folder"]


def test_the_videos_of_the_next_unit_are_decoded_while_this_one_is_encoded(
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", seed=number)
    given = [video_source(tmp_path / f"{number}.mp4") for number in range(4)]
    to_images, seen = Encoder.to_images, []

    def wait_for_the_next_unit(self: Encoder, pixels: Any) -> torch.Tensor:
        end = time.monotonic() + 60
        while not seen and not (tmp_path / "3.decoded").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        seen.append(1)
        return to_images(self, pixels)

    monkeypatch.setattr(decode_videos, "decode_video", jobs.decode_and_tell)
    monkeypatch.setattr(Encoder, "to_images", wait_for_the_next_unit)
    with decode_in_workers(given, **sampling(encoder), workers=1, deadline_seconds=60) as decoded:
        first = encode(encoder, (next(decoded) for _ in range(2)), count=2)
        second = encode(encoder, (next(decoded) for _ in range(2)), count=2)
    assert not np.array_equal(first.values["video/frames"], second.values["video/frames"])


class SlowWriter:
    """Stands for ``CacheWriter``: notes what it is given, waits for leave, may fail."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.begun: list[int] = []
        self.done: list[int] = []
        self.leave = threading.Semaphore(0)
        self._fails_at = fails_at

    def commit(self, unit: PendingUnit, *_: Any, **__: Any) -> None:
        self.begun.append(unit.unit)
        assert self.leave.acquire(timeout=60)
        if unit.unit == self._fails_at:
            raise OSError("disk full")
        self.done.append(unit.unit)


def unit(number: int) -> PendingUnit:
    return PendingUnit("video", number, (number,))


NOTHING = EncodedUnit({}, [])


def test_a_unit_is_written_while_the_next_one_is_encoded() -> None:
    writer: Any = SlowWriter()
    with committing(writer) as commit:
        commit(unit(0), NOTHING)  # returns before it is written
        assert writer.done == []
        writer.leave.release()
        commit(unit(1), NOTHING)
        assert writer.done == [0]
        writer.leave.release()
    assert writer.begun == writer.done == [0, 1]


def test_what_a_write_raises_is_raised_and_nothing_is_written_after_it() -> None:
    def write(writer: Any, count: int) -> None:
        writer.leave.release(count)
        with committing(writer) as commit:
            for number in range(count):
                commit(unit(number), NOTHING)

    first_fails, last_fails = SlowWriter(fails_at=0), SlowWriter(fails_at=1)
    with pytest.raises(OSError, match="disk full"):
        write(first_fails, 3)
    assert first_fails.begun == [0]
    with pytest.raises(OSError, match="disk full"):
        write(last_fails, 2)
    assert last_fails.done == [0]


def test_an_interruption_waits_for_the_write_that_runs() -> None:
    writer: Any = SlowWriter()
    writer.leave.release()

    def interrupted() -> None:
        with committing(writer) as commit:
            commit(unit(0), NOTHING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert writer.done == [0]


def test_features_near_zero_are_counted_with_their_rounding() -> None:
    """1e-5 is 167.77 of float16's smallest steps (2^-24) and becomes 168 of them."""
    features = np.zeros((5, 1, 4), dtype=np.float32)
    features[0, 0, 0] = 1.0  # large
    features[1, 0, 0] = 1e-5
    features[2, 0, 0] = 9e-9  # less than half a step: rounded to 0
    features[3, 0, :] = 0.6e-4  # its norm is 1.2e-4
    faint = faint_features(features)
    assert faint.count == 2
    assert faint.error == pytest.approx(1.0)
    assert faint_features(features[1:2]).error == pytest.approx(168 / 167.77 - 1, rel=0.01)
    assert faint_features(features[3:]) == Faint()


@pytest.mark.parametrize("side", ["captions", "frames"])
def test_a_warning_where_float16_rounds_nearly_everything_off(
    side: str, project: Path, tiny_encoder_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = project / "faint"
    folder.mkdir()
    for path in tiny_encoder_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["visual.proj" if side == "frames" else "text_projection"] *= 1e-6
    save_file(weights, folder / "open_clip_model.safetensors")
    change_params(project, encoder__model=f"local-dir:{folder}")
    prepare(workspace(project))
    extract(workspace(project))
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "norms below" in line)
    amount = 56 if side == "frames" else 28
    assert line.startswith(f"warning: the features of {amount} {side} have norms below 0.0001")
