"""A cache of frames: the pixels of the extraction, with the guarantees of the cache of features."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gare_cache.cache import schema
from gare_cache.cache.chunks import checksum, read_chunk, write_chunk
from gare_cache.cache.identity import folder_name
from gare_cache.cache.journal import UnitRecord, append
from gare_cache.cache.loading import load_cache
from gare_cache.cache.lock import Shard
from gare_cache.cache.reader import FeatureCache, open_cache
from gare_cache.cache.schema import PIXELS
from gare_cache.cache.verify import verify_cache
from gare_cache.encoders.augmentation import augment_frames
from gare_cache.errors import CacheError, DecodeError, FingerprintMismatch
from gare_cache.extraction.frame_cache import (
    frames_identity,
    frames_manifest,
    open_frame_cache,
    project_preprocessing,
)
from gare_cache.extraction.training_frames import (
    Augmentation,
    FrameRequest,
    cached_frames,
    decoded_frames,
)
from gare_cache.files import read_json, write_record
from gare_cache.stages.cache_folders import collect_garbage, list_caches, pack_cache, unpack_cache
from gare_cache.stages.extract import extract
from gare_cache.stages.extract_frames import estimate_frames, extract_frames
from gare_cache.stages.info import describe
from gare_cache.stages.prepare import prepare
from gare_cache.stages.verify import reextract, verify
from tests.stages.extraction import arrays, assert_equal_bytes, run_command
from tests.tiny import (
    MODEL_CONFIG,
    change_params,
    make_project,
    make_tiny_encoder,
    params,
    workspace,
    write_video,
)

AUGMENTATION = Augmentation(smallest_crop=0.5, flip=True, operations=1, magnitude=9)
MOST = 16
COMMAND = "`gare-cache extract --frames`"


@pytest.fixture(autouse=True)
def own_root_and_small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(schema, "_UNIT_BYTES", 4 * MOST * 32 * 32 * 3)  # units of 4 videos
    monkeypatch.setattr(schema, "_FEW_ROWS", 1)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    """The tiny project with videos of 2 to 12 s, one of which is no video."""
    project = make_project(tmp_path_factory.mktemp("frames") / "project", tiny_encoder_dir)
    for number, path in enumerate(sorted((project / "videos").rglob("*.mp4"))):
        write_video(path, seed=number, num_frames=4 + 2 * (number % 11), fps=2)
    (project / "videos" / "val" / "val0.mp4").write_bytes(b"no video")
    change_params(
        project,
        extract__sampler="fps_then_uniform",
        extract__max_frames_cached=MOST,
        extract__max_failed_percent=20,
    )
    prepare(workspace(project))
    return project


@pytest.fixture(scope="module")
def extracted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = shutil.copytree(prepared, tmp_path_factory.mktemp("extracted") / "project")
    with pytest.MonkeyPatch.context() as patch:
        own_root_and_small_units.__wrapped__(patch)  # type: ignore[attr-defined]
        extract_frames(workspace(project), workers=1)
    return project


@pytest.fixture
def project(extracted: Path, tmp_path: Path) -> Path:
    return shutil.copytree(extracted, tmp_path / "project")


def requests(project: Path, *, draws: bool) -> list[FrameRequest]:
    """Every video that can be decoded, backwards, the first one twice."""
    rows, _ = frames_manifest(workspace(project)).encodable()
    sources = [row for row in reversed(rows) if row["video_id"] != "val0"]
    wanted = [*sources, sources[0]]
    return [FrameRequest(row, str(i) if draws else None) for i, row in enumerate(wanted)]


def decoded(project: Path, wanted: list[FrameRequest], most: int, **options: Any) -> list[Any]:
    space = workspace(project)
    preprocessing = project_preprocessing(space, frames_manifest(space))
    with decoded_frames(
        wanted,
        sampler=space.params.extract.sampler,
        max_frames=most,
        preprocessing=preprocessing,
        deadline_seconds=60.0,
        most_pixels=10**6,
        memory_bytes=None,
        **{"augmentation": None, "workers": 2, **options},
    ) as frames:
        return list(frames)


def cached(cache: FeatureCache, wanted: list[FrameRequest], most: int, **options: Any) -> list[Any]:
    options = {"augmentation": None, "workers": 1, **options}
    with cached_frames(wanted, cache=cache, max_frames=most, **options) as frames:
        return list(frames)


@pytest.mark.parametrize("most", [1, 2, 5, MOST])
def test_cached_frames_are_the_decoded_ones(extracted: Path, most: int) -> None:
    cache = open_frame_cache(workspace(extracted))
    wanted = requests(extracted, draws=False)
    expected = decoded(extracted, wanted, most)
    found = cached(cache, wanted, most, augmentation=AUGMENTATION)  # no draw, so none is made
    assert {len(frames) for frames in expected} == set(range(min(2, most), min(most, 12) + 1))
    assert all(map(np.array_equal, found, expected))
    assert all(frames.flags.writeable for frames in found)


@pytest.mark.slow
def test_the_draw_decides_the_augmentation_wherever_frames_come_from(extracted: Path) -> None:
    cache = open_frame_cache(workspace(extracted))
    wanted = requests(extracted, draws=True)
    plain = cached(cache, wanted, 5)
    expected = [
        augment_frames(frames, **vars(AUGMENTATION), draw=str(request.draw))
        for frames, request in zip(plain, wanted, strict=True)
    ]
    assert not all(map(np.array_equal, plain, expected))
    for found in (
        cached(cache, wanted, 5, augmentation=AUGMENTATION, workers=2),
        decoded(extracted, wanted, 5, augmentation=AUGMENTATION, workers=1),
    ):
        assert all(map(np.array_equal, found, expected))


def test_a_failed_video_is_recorded_with_its_reason_and_ends_a_training(extracted: Path) -> None:
    record = json.loads((extracted / "outputs" / "frames.json").read_text())
    assert record["videos"] == {"decoded": 13, "failed": 1, "missing": 0}
    cache = open_frame_cache(workspace(extracted))
    assert "val0.mp4" in cache.failures()["val0"]
    assert not cache.pixels(["val0"])[0].any()
    rows, _ = frames_manifest(workspace(extracted)).encodable()
    wanted = [FrameRequest(row, "a") for row in rows if row["video_id"] == "val0"]
    for augmentation in (None, AUGMENTATION):
        with pytest.raises(DecodeError, match=r"val0\.mp4"):
            cached(cache, wanted, 4, augmentation=augmentation)


def test_too_many_failures_stop_it(prepared: Path, tmp_path: Path) -> None:
    project = shutil.copytree(prepared, tmp_path / "project")
    change_params(project, extract__max_failed_percent=1)
    with pytest.raises(DecodeError, match=r"1 of 14 videos cannot be decoded .*val0\.mp4"):
        extract_frames(workspace(project), workers=1)
    with pytest.raises(CacheError, match=rf"frames\.json does not exist; run {COMMAND}"):
        open_frame_cache(workspace(project))
    with pytest.raises(DecodeError, match="--max-failures is 0"):
        extract_frames(workspace(project), workers=1, retry_failed=True, max_failures=0)
    write_video(project / "videos" / "val" / "val0.mp4", seed=99)
    prepare(workspace(project))
    record = extract_frames(workspace(project), workers=1)
    assert record is not None
    assert record["videos"]["failed"] == 0


@pytest.mark.slow  # the store's own tests cover the mechanism
def test_shards_write_the_bytes_of_one_process(
    prepared: Path, extracted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = shutil.copytree(prepared, tmp_path / "project")
    assert extract_frames(workspace(project), workers=2, shard=Shard(2, 2)) is None
    assert "2 units are left to other shards" in capsys.readouterr().err
    with pytest.raises(CacheError, match=rf"2 units .* not done; .*{COMMAND} without --finalise"):
        extract_frames(workspace(project), finalise=True)
    extract_frames(workspace(project), workers=1, shard=Shard(1, 2))
    assert "run `gare-cache extract --frames --finalise`" in capsys.readouterr().err
    extract_frames(workspace(project), finalise=True)
    assert_equal_bytes(arrays(project), arrays(extracted))
    names = [(folder / "outputs" / "frames.json").read_text() for folder in (project, extracted)]
    assert json.loads(names[0])["extraction_id"] == json.loads(names[1])["extraction_id"]


@pytest.mark.slow  # the store's own tests cover the mechanism
def test_an_extraction_that_was_stopped_goes_on(
    prepared: Path, extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = shutil.copytree(prepared, tmp_path / "project")
    with monkeypatch.context() as patch:
        patch.setattr("gare_cache.stages.extract_frames.stop_after", lambda _: interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract_frames(workspace(project), workers=1, max_failures=3)
    (folder,) = (project / "cache").iterdir()
    assert open_cache(folder).counts("video")["pending"] > 0
    extract_frames(workspace(project), workers=1)
    assert_equal_bytes(arrays(project), arrays(extracted))


def interrupted(record: Any) -> None:
    raise KeyboardInterrupt


def test_encoders_with_the_same_input_share_the_frames(project: Path, tmp_path: Path) -> None:
    record = (project / "outputs" / "frames.json").read_text()
    other = make_tiny_encoder(tmp_path / "other", seed=7)
    change_params(project, encoder__model=f"local-dir:{other}", extract__batch_frames=3)
    extract_frames(workspace(project), workers=1)
    assert (project / "outputs" / "frames.json").read_text() == record
    open_frame_cache(workspace(project))
    vision = {**MODEL_CONFIG["vision_cfg"], "image_size": 16}
    config = {**MODEL_CONFIG, "vision_cfg": vision}
    smaller = make_tiny_encoder(tmp_path / "smaller", seed=7, config=config)
    change_params(project, encoder__model=f"local-dir:{smaller}")
    with pytest.raises(CacheError, match=rf"frames of other settings .*; run {COMMAND}"):
        open_frame_cache(workspace(project))


@pytest.mark.parametrize(
    "change", [{"sampler": "segment_centre"}, {"max_frames_cached": 8}], ids=["sampler", "frames"]
)
def test_what_frames_depend_on_names_another_folder(
    extracted: Path, change: dict[str, Any]
) -> None:
    settings = params(extracted).extract
    preprocessing = project_preprocessing(
        workspace(extracted), frames_manifest(workspace(extracted))
    )
    identity = frames_identity(settings, preprocessing)
    folder = open_frame_cache(workspace(extracted), preprocessing).folder
    assert folder.name == folder_name("tiny", identity)
    other = frames_identity(settings.model_copy(update=change), preprocessing)
    assert folder_name("tiny", other) != folder.name


def test_what_is_missing_or_changed_is_refused(project: Path) -> None:
    cache = open_frame_cache(workspace(project))
    wanted = requests(project, draws=False)
    with pytest.raises(CacheError, match=f"holds up to {MOST} frames of a video, not 17"):
        cached(cache, wanted, MOST + 1)
    other = FrameRequest({**wanted[0].source, "mtime_ns": 0}, None)
    with pytest.raises(CacheError, match=f"1 video of another file .*; run {COMMAND}"):
        cached(cache, [other], 4)
    write_video(project / "videos" / "train" / "train0.mp4", seed=50)
    prepare(workspace(project))
    with pytest.raises(CacheError, match=f"lacks 1 video of the manifest; run {COMMAND}"):
        open_frame_cache(workspace(project))
    extract_frames(workspace(project), workers=1)
    assert open_frame_cache(workspace(project)).counts("video")["pending"] == 0
    record = project / "outputs" / "frames.json"
    write_record(record, {**read_json(record), "content_digest": "0" * 64})
    with pytest.raises(FingerprintMismatch, match=f"run {COMMAND} again"):
        open_frame_cache(workspace(project))


def test_damage_is_found_refused_and_mended(project: Path) -> None:
    (folder,) = (project / "cache").iterdir()
    assert verify_cache(folder).faults == []
    before = arrays(project)
    chunk = folder / "features.zarr" / PIXELS / "c" / "1" / "0" / "0" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    cache = open_frame_cache(workspace(project))
    drop = f"`gare-cache verify {folder.name} --drop-damaged`"
    with pytest.raises(CacheError, match=f"{drop}, then {COMMAND}"):
        cached(cache, requests(project, draws=False), 4)
    with pytest.raises(CacheError, match=f"faults .*: 1; .*{drop}, then {COMMAND}"):
        list(verify(workspace(project), folder.name))
    lines = list(verify(workspace(project), folder.name, drop_damaged=True))
    assert lines[-1] == f"dropped 1 unit; {COMMAND} decodes them again"
    extract_frames(workspace(project), workers=1)
    assert_equal_bytes(arrays(project), before)
    assert list(verify(workspace(project), folder.name))[-1] == "faults: 0"


def written_anew(project: Path, video: str, name: str, change: Any) -> None:
    """Change a cached value of a video and give it a right checksum, as another decoder would."""
    (folder,) = (project / "cache").iterdir()
    cache = open_cache(folder)
    (row,) = cache.rows("video", [video])
    spec = next(spec for spec in cache.layout.arrays("video") if spec.name == name)
    chunk = read_chunk(folder, spec, row // 4, unit_rows=4).copy()
    change(chunk[row % 4])
    write_chunk(folder, spec, row // 4, chunk)
    checksums = {**cache.tables["video"].checksums[row // 4], name: checksum(chunk)}
    append(
        folder / "journal" / "units.jsonl",
        UnitRecord(99, "video", row // 4, [], checksums, {}),
    )


def test_frames_are_decoded_again_and_compared_exactly(project: Path) -> None:
    space = workspace(project)
    lines = list(reextract(space, count=50))
    assert lines[-1] == "frames: 13 videos decoded again, 13 bit for bit equal"
    assert "video train1: bit for bit equal" in lines
    (folder,) = (project / "cache").iterdir()
    assert len(list(reextract(space, folder.name, count=2))) == 3

    def one_bit(pixels: Any) -> None:
        pixels[1, 3, 4, 2] ^= 1

    written_anew(project, "train1", PIXELS, one_bit)
    with pytest.raises(CacheError, match=r"1 of 13 items .* video train1: 1 frame differs from"):
        list(reextract(space, count=50))
    written_anew(project, "train1", PIXELS, one_bit)

    def later(times: Any) -> None:
        times[0] += 0.5

    written_anew(project, "train2", "video/times", later)
    with pytest.raises(CacheError, match=r"video train2: video/times differs from the cache"):
        list(reextract(space, count=50))
    change_params(project, extract__sampler="segment_centre")
    with pytest.raises(FingerprintMismatch, match="restore the settings"):
        list(reextract(workspace(project), count=1))


def test_info_and_verify_take_both_caches_of_a_project(project: Path) -> None:
    space = workspace(project)
    (frames,) = (project / "cache").iterdir()
    with pytest.raises(CacheError, match=r"features\.json does not exist"):
        list(describe(space))
    assert [line for line in verify(space) if line.startswith(str(frames))]

    extract(space, device="cpu", workers=1)
    lines = dict(describe(space))
    assert lines["frames folder"] == str(frames) != lines["folder"]
    assert lines["frames"] == f"frames of 32 x 32 px, up to {MOST} a video, uint8"
    assert lines["frames rows"] == "video 13 ok 1 failed"
    assert lines["frames val videos"] == "2 of 3 decoded"
    assert "frames val captions" not in lines
    assert lines["frames size"].endswith(" MB")
    assert lines["frames state"] == "complete"
    found = list(verify(space))
    assert found.count("faults: 0") == 2
    assert any(line.startswith(lines["folder"]) for line in found)
    assert any(line.startswith("frames: 2 videos") for line in reextract(space, count=2))

    # What is wrong with one is no reason not to look at the other.
    chunk = next(path for path in sorted(frames.rglob("c/**/*")) if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(CacheError, match=f"faults in {frames}"):
        list(verify(space))
    features = Path(lines["folder"])
    for path in sorted(features.rglob("c/**/*")):
        if path.is_file():
            content = bytearray(path.read_bytes())
            content[0] ^= 1
            path.write_bytes(content)
            break
    with pytest.raises(CacheError, match=f"faults in {features}.*; and faults in {frames}"):
        list(verify(space))
    shutil.rmtree(frames)
    lines = dict(describe(space))
    assert lines["frames state"].startswith("unreadable: ")
    with pytest.raises(CacheError, match=f"no cache '{frames.name}'.*{COMMAND}"):
        list(verify(space))


def test_pixels_on_padding_are_a_fault_though_their_checksum_is_right(project: Path) -> None:
    (folder,) = (project / "cache").iterdir()
    cache = open_cache(folder)
    spec = next(spec for spec in cache.layout.arrays("video") if spec.name == PIXELS)
    chunk = read_chunk(folder, spec, 0, unit_rows=4)
    length = int(cache.num_frames(["train1"])[0])
    (row,) = cache.rows("video", ["train1"])
    chunk[row % 4, length, 0, 0, 0] = 1
    write_chunk(folder, spec, row // 4, chunk)
    checksums = {**cache.tables["video"].checksums[row // 4], PIXELS: checksum(chunk)}
    record = UnitRecord(99, "video", row // 4, [], checksums, {})
    append(folder / "journal" / "units.jsonl", record)
    (fault,) = verify_cache(folder).faults
    assert (fault.problem, fault.rows) == ("values on padding frames", (row,))


def test_the_commands_for_caches_know_frames(project: Path) -> None:
    (folder,) = (project / "cache").iterdir()
    lines = list(list_caches(project))
    assert lines[1].startswith(f"{folder.name}  ")
    assert lines[1].endswith("  complete")
    assert lines[2].strip() == "data set tiny, frames of 32 x 32 px"
    assert lines[3].strip() == "video 13 ok 1 failed"
    list(collect_garbage(project, (), remove_them=True))
    assert folder.is_dir()
    pack_cache(workspace(project), folder.name, project / "packed.tar")
    before = arrays(project)
    shutil.rmtree(folder)
    assert unpack_cache(project, project / "packed.tar") == folder
    assert_equal_bytes(arrays(project), before)
    assert (
        len(cached(open_frame_cache(workspace(project)), requests(project, draws=False), 4)) == 14
    )
    (project / "outputs" / "frames.json").unlink()
    list(collect_garbage(project, (), remove_them=True))
    assert not folder.exists()


def test_frames_are_no_features(extracted: Path) -> None:
    (folder,) = (extracted / "cache").iterdir()
    with pytest.raises(CacheError, match="holds frames, no features"):
        load_cache(folder)


def test_the_estimate_counts_the_bytes(prepared: Path, extracted: Path) -> None:
    new, _ = (list(estimate_frames(workspace(folder))) for folder in (prepared, extracted))
    size = 16 * (MOST * (32 * 32 * 3 + 4) + 4)  # 4 units of 4 videos
    assert "14 of 14 videos to decode, up to 16 x 32 x 32 x 3 bytes each" in new[1]
    assert new[2] == f"to be written    {size / 2**20:,.1f} MB"
    assert not (prepared / "cache").exists()
    (folder,) = (extracted / "cache").iterdir()
    chunks = sum(p.stat().st_size for p in folder.rglob("c/**/*") if p.is_file())
    assert chunks == size
    assert "0 of 14 videos to decode" in _[1]


@pytest.mark.slow
def test_the_command_line(prepared: Path, tmp_path: Path) -> None:
    project = shutil.copytree(prepared, tmp_path / "project")
    code, err = run_command("extract", "--frames", "--device", "cpu", folder=project)
    assert (code, err) == (2, "error: --frames runs no encoder; leave out --device and --threads\n")
    code, err = run_command(
        "extract", "--frames", "--workers", "1", folder=project, most_bytes=10_000
    )
    assert code == 1
    assert "error: cannot write to" in err.splitlines()[-1]
    assert run_command("extract", "--frames", "--workers", "1", folder=project)[0] == 0
    assert (project / "outputs" / "frames.json").is_file()
    change_params(project, encoder__preprocess="device")
    code, err = run_command("extract", "--frames", folder=project)
    assert code == 2
    assert err.startswith("error: encoder.preprocess is device, which")
    assert err.count("\n") == 1
