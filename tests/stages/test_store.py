"""The cache survives every interruption: kills, shards, full disks, damage."""

import json
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.cache import schema
from gare_cache.cache.chunks import chunk_path
from gare_cache.cache.loading import load_cache
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import KINDS, Layout
from gare_cache.cache.verify import verify_cache
from gare_cache.encoders.encoder import Encoder
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import AnnotationError, CacheError, ConfigError, DecodeError
from gare_cache.project.features import open_features
from gare_cache.stages.extract import extract
from gare_cache.stages.info import describe
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from gare_cache.stages.verify import verify
from tests.stages.extraction import (
    PAUSE_SECONDS,
    arrays,
    assert_equal_bytes,
    run_command,
    shard,
    start,
)
from tests.tiny import change_params, workspace


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})
    monkeypatch.setattr(schema, "_MOST_ROWS_OF_WORDS", 8)


@pytest.fixture
def undisturbed(project: Path, tmp_path: Path) -> tuple[dict[str, Any], bytes]:
    """Arrays and features.json of an extraction that nothing interrupted; its cache is gone."""
    change_params(project, extract__patch_tokens=True, extract__word_tokens=True)
    prepare(workspace(project))
    extract(workspace(project))
    expected = arrays(project), workspace(project).features.read_bytes()
    (project / "cache").rename(tmp_path / "undisturbed")
    workspace(project).features.unlink()
    return expected


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_kills_at_random_moments_do_not_change_a_byte(
    project: Path, undisturbed: tuple[dict[str, Any], bytes], tmp_path: Path, kills: int
) -> None:
    generator = random.Random(1)
    killed_at: Counter[str] = Counter()
    finished = 0
    while killed_at.total() < kills:
        moment = _kill_at(project, generator.randint(1, 20), generator.random() * PAUSE_SECONDS)
        if moment is None:  # done before its moment came: begin with an empty cache
            finished += 1
            assert_equal_bytes(arrays(project), undisturbed[0])
            (project / "cache").rename(tmp_path / f"finished {finished}")
        else:
            killed_at[moment] += 1
            _assert_whole(project)
    extract(workspace(project))
    assert_equal_bytes(arrays(project), undisturbed[0])
    assert workspace(project).features.read_bytes() == undisturbed[1]
    (folder,) = (project / "cache").iterdir()
    assert verify_cache(folder).faults == []
    print(f"{kills} kills: {dict(killed_at)}; {finished} extractions ended before their kill")


@pytest.mark.parametrize("unit", [1, 4])
def test_a_kill_between_chunk_and_journal_leaves_the_unit_undone(
    project: Path, undisturbed: tuple[dict[str, Any], bytes], unit: int
) -> None:
    process, moments = start(project)
    journalled = 0
    while journalled < unit:
        journalled += moments.recv() == "journal"
    process.kill()
    process.join()
    (folder,) = (project / "cache").iterdir()
    assert len(open_cache(folder).records) == unit - 1
    extract(workspace(project))
    assert_equal_bytes(arrays(project), undisturbed[0])
    assert workspace(project).features.read_bytes() == undisturbed[1]


def _kill_at(project: Path, number: int, delay: float) -> str | None:
    process, moments = start(project)
    moment = None
    try:
        for _ in range(number):
            moment = moments.recv()
    except EOFError:
        process.join()
        assert process.exitcode == 0
        return None
    process.join(delay)
    process.kill()
    process.join()
    return moment if process.exitcode == -9 else None


def _assert_whole(project: Path) -> None:
    folders = list((project / "cache").iterdir())
    attributes = folders[0] / "features.zarr" / "zarr.json" if folders else None
    if attributes and attributes.exists() and "format_version" in attributes.read_text():
        faults = verify_cache(folders[0]).faults
        assert [fault for fault in faults if not fault.harmless] == []


def test_three_shards_at_once_write_the_bytes_of_one_writer(
    project: Path, undisturbed: tuple[dict[str, Any], bytes]
) -> None:
    started = [start(project, **shard(index, 3)) for index in (1, 2, 3)]
    for process, _ in started:
        process.join()
        assert process.exitcode == 0
    (folder,) = (project / "cache").iterdir()
    for index in (1, 2, 3):
        lines = (folder / "journal" / f"worker-{index}-of-3.jsonl").read_text().splitlines()
        assert {json.loads(line)["unit"] % 3 for line in lines} == {index - 1}
    assert not workspace(project).features.exists()
    extract(workspace(project), finalise=True)
    assert_equal_bytes(arrays(project), undisturbed[0])
    assert workspace(project).features.read_bytes() == undisturbed[1]
    assert verify_cache(folder).faults == []


def test_shards_say_what_is_left_and_finalise_waits_for_all(
    project: Path, undisturbed: tuple[dict[str, Any], bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    assert extract(workspace(project), **shard(1, 2)) is None
    assert "shard 1/2 is done; 4 units are left to other shards" in capsys.readouterr().err
    with pytest.raises(CacheError, match=r"4 units of .* are not done; run their shards again"):
        extract(workspace(project), finalise=True)
    assert not workspace(project).features.exists()
    extract(workspace(project), **shard(2, 2))
    assert "no unit is left; run `gare-cache extract --finalise`" in capsys.readouterr().err
    extract(workspace(project), finalise=True)
    assert workspace(project).features.read_bytes() == undisturbed[1]
    with pytest.raises(ConfigError, match="--finalise encodes nothing"):
        extract(workspace(project), finalise=True, **shard(1, 2))


def command(project: Path, *arguments: str) -> tuple[int, str, str]:
    place = ["--params", str(project / "params.yaml")]
    result = CliRunner().invoke(cli.app, [*arguments, *place])
    return result.exit_code, result.stdout, result.stderr


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def one_line(err: str) -> str:
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert err.splitlines()[-1] == line
    return line


def test_a_full_disk_keeps_what_is_done_and_says_what_to_do(
    project: Path,
    undisturbed: tuple[dict[str, Any], bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with small_disk(tmp_path / "disk", "4m") as disk:
        monkeypatch.setenv("GARE_CACHE_ROOT", str(disk / "cache"))
        assert command(project, "extract", "--shard", "1/4")[0] == 0
        (folder,) = (disk / "cache").iterdir()
        done = len(open_cache(folder).records)
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(bytes(free - 16 * 2**10))
        code, out, err = command(project, "extract")
        assert (code, out) == (1, "")
        assert re.match(
            rf"error: cannot write to {folder}: the disk is full; free some space, or put the "
            r"caches elsewhere with \$GARE_CACHE_ROOT\. Finished units are kept",
            one_line(err),
        )
        assert len(open_cache(folder).records) >= done
        assert [f for f in verify_cache(folder).faults if not f.harmless] == []
        assert not workspace(project).features.exists()
        (disk / "ballast").unlink()
        assert command(project, "extract")[0] == 0
        assert workspace(project).features.read_bytes() == undisturbed[1]
        shutil.copytree(disk / "cache", project / "cache")
    assert_equal_bytes(arrays(project), undisturbed[0])


def test_a_limit_on_the_size_of_files_is_an_error_that_keeps_what_is_done(
    project: Path, undisturbed: tuple[dict[str, Any], bytes]
) -> None:
    extract(workspace(project), **shard(1, 4))
    (folder,) = (project / "cache").iterdir()
    done = len(open_cache(folder).records)
    code, err = run_command("extract", folder=project, most_bytes=1500)
    assert code == 1
    assert "the limit of a file's size is reached; raise `ulimit -f`" in one_line(err)
    assert len(open_cache(folder).records) >= done
    extract(workspace(project))
    assert_equal_bytes(arrays(project), undisturbed[0])


def test_a_read_only_folder_is_an_error_of_one_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(workspace(project))
    with small_disk(tmp_path / "disk", "4m") as disk:
        monkeypatch.setenv("GARE_CACHE_ROOT", str(disk / "cache"))
        extract(workspace(project))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        code, _, err = command(project, "extract")
        assert code == 1
        assert "the folder is read-only; make it writable" in one_line(err)
        for reading in ("info", "verify"):  # they need not write
            assert command(project, reading)[0] == 0
        monkeypatch.setenv("GARE_CACHE_ROOT", str(disk / "another"))
        code, _, err = command(project, "extract")
        assert code == 1
        assert "the folder is read-only" in one_line(err)


def test_failures_stop_early_when_asked_and_are_tried_again_when_asked(project: Path) -> None:
    intact = {}
    for number in (0, 1, 5):
        path = project / f"videos/train/train{number}.mp4"
        intact[path] = path.read_bytes(), path.stat().st_mtime_ns
        path.write_bytes(bytes(len(intact[path][0])))
        os.utime(path, ns=(intact[path][1], intact[path][1]))
    prepare(workspace(project))
    code, _, err = command(project, "extract", "--max-failures", "1")
    assert code == 2
    assert "2 videos failed in this run and --max-failures is 1" in one_line(err)
    assert "run with --retry-failed" in err
    (folder,) = (project / "cache").iterdir()
    assert open_cache(folder).counts("video")["ok"] == 2  # the first unit is kept
    assert command(project, "extract", "--max-failures", "3")[0] == 2  # above max_failed_percent
    assert open_cache(folder).counts("video") == {"ok": 11, "failed": 3, "pending": 0}

    for path, (content, mtime) in intact.items():
        path.write_bytes(content)
        os.utime(path, ns=(mtime, mtime))
    assert command(project, "extract")[0] == 2  # failed rows are done unless they are retried
    assert command(project, "extract", "--retry-failed")[0] == 0
    assert open_cache(folder).counts("video") == {"ok": 14, "failed": 0, "pending": 0}
    assert verify_cache(folder).faults == []


def test_a_video_that_vanishes_is_a_recorded_failure(project: Path) -> None:
    change_params(project, extract__max_failed_percent=10)
    prepare(workspace(project))
    (project / "videos/val/val1.mp4").unlink()
    features = extract(workspace(project))
    assert features is not None
    assert features["videos"]["failed"] == 1
    (folder,) = (project / "cache").iterdir()
    assert "val1.mp4" in open_cache(folder).failures()["val1"]


def test_damage_is_found_dropped_and_made_anew(
    project: Path, undisturbed: tuple[dict[str, Any], bytes]
) -> None:
    extract(workspace(project))
    code, out, _ = command(project, "verify")
    assert code == 0
    assert out.splitlines()[-1] == "faults: 0"
    assert "digests of 14 videos computed again" in out
    (folder,) = (project / "cache").iterdir()
    chunk = folder / "features.zarr/video/frames/c/2/0/0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 4
    chunk.write_bytes(content)
    code, out, err = command(project, "verify")
    assert code == 2
    fault = "features.zarr/video/frames/c/2/0/0: its checksum is"
    assert out.startswith(fault)
    assert "(video unit 2); run `gare-cache verify --drop-damaged`, then `gare-cache ext" in out
    assert re.match(rf"error: faults in {folder}: 1; the first: {fault}", one_line(err))
    code, out, _ = command(project, "verify", "--drop-damaged")
    assert code == 0
    assert "dropped 1 unit; `gare-cache extract` encodes them again" in out
    assert command(project, "train")[0] == 2  # not the features that features.json stands for
    assert command(project, "extract")[0] == 0
    assert_equal_bytes(arrays(project), undisturbed[0])
    assert workspace(project).features.read_bytes() == undisturbed[1]
    assert command(project, "verify", folder.name)[0] == 0
    code, _, err = command(project, "verify", "nowhere")
    assert code == 2
    assert f"no cache 'nowhere'; name one of those under {project / 'cache'} ({folder.name})" in err


@pytest.mark.slow
def test_items_encoded_again_are_compared_with_the_cache(project: Path) -> None:
    prepare(workspace(project))
    extract(workspace(project))
    code, out, _ = command(project, "verify", "--reextract", "5", "--seed", "3")
    assert code == 0
    items = re.findall(r"^(video|text) (\S+): cosine min ([\d.]+) mean ([\d.]+), ", out, re.M)
    assert Counter(kind for kind, *_ in items) == {"video": 5, "text": 5}
    assert all(float(least) > 0.9999 for _, _, least, _ in items)
    assert re.search(r"^video: 5 of 5 items encoded again, .* \d bit for bit equal$", out, re.M)
    again = command(project, "verify", "--reextract", "5", "--seed", "3")[1]
    other = command(project, "verify", "--reextract", "5", "--seed", "4")[1]
    assert again == out != other

    # Features that were never those of the video, under a right checksum, are found only so.
    space = workspace(project)
    (folder,) = (project / "cache").iterdir()
    shutil.rmtree(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "encode_frames", lambda self, images: images.flatten(1)[:, :64] + 3)
        extract(space)
    assert command(project, "verify")[0] == 0
    code, out, err = command(project, "verify", "--reextract", "2")
    assert code == 2
    assert "are not what their sources give" in one_line(err)
    change_params(project, extract__batch_frames=4)
    code, _, err = command(project, "verify", "--reextract", "1")
    assert code == 2
    assert "params.yaml describes" in one_line(err)


def test_a_dry_run_tells_and_writes_nothing(project: Path) -> None:
    prepare(workspace(project))
    before = sorted(project.rglob("*"))
    code, out, _ = command(project, "extract", "--dry-run")
    assert code == 0
    assert sorted(project.rglob("*")) == before
    assert "(new)" in out
    assert "14 of 14 to encode" in out
    assert "28 of 28 to encode" in out
    assert re.search(r"^decode +[\d,]+ ms a video in each of \d+ processes, 4.0 frames", out, re.M)
    assert re.search(r"^fp32 +[\d,]+ frames/s, [\d,]+ captions/s: about .*params.yaml", out, re.M)
    assert re.search(r"^bf16 +[\d,]+ frames/s", out, re.M)
    told = float(re.search(r"^to be written +([\d.]+) MB", out, re.M)[1])  # type: ignore[index]
    extract(workspace(project))
    (folder,) = (project / "cache").iterdir()
    written = sum(p.stat().st_size for p in folder.glob("features.zarr/**/c/**/*") if p.is_file())
    assert told == pytest.approx(written / 2**20, abs=0.1)
    code, out, _ = command(project, "extract", "--dry-run")
    assert code == 0
    assert "(exists)" in out
    assert "0 of 14 to encode" in out
    assert "nothing is left to encode" in out


def test_info_tells_coverage_sizes_identities_and_the_limit(project: Path) -> None:
    (project / "videos/test/test2.mp4").unlink()
    prepare(workspace(project))
    extract(workspace(project))
    lines = dict(describe(workspace(project)))
    assert lines["test videos"] == "2 of 3 encoded"
    assert lines["test captions"] == "4 of 6 encoded"
    assert lines["train videos"] == "8 of 8 encoded"
    assert lines["sampling sampler"] == "segment_centre"
    assert len(lines["encoder id"]) == len(lines["extraction id"]) == 64
    assert lines["array video/frames"].endswith("MB, 13 x 4 x 64 <f2")
    assert lines["array text/features"].endswith("MB, 26 x 64 <f2")
    assert lines["video decode"].endswith("s decoding, summed over its processes")
    assert re.match(r"(de|en)coding: the encoder waited \d+ % of its time", lines["limit"])


def test_the_cache_commands(project: Path, tmp_path: Path) -> None:
    prepare(workspace(project))
    extract(workspace(project))
    (used,) = (project / "cache").iterdir()
    change_params(project, extract__max_frames_cached=2)
    extract(workspace(project))
    change_params(project, extract__max_frames_cached=4)
    extract(workspace(project))
    (unused,) = set((project / "cache").iterdir()) - {used}
    out = command(project, "cache", "list")[1]
    assert out.startswith(f"caches under {project / 'cache'}: 2\n")
    assert re.search(rf"^{used.name}  [\d.]+ MB  complete$", out, re.M)
    assert "data set tiny, encoder " in out
    assert "video 14 ok; text 28 ok" in out
    assert "max_frames=2 sampler=segment_centre" in out

    code, out, _ = command(project, "cache", "gc")
    assert code == 0
    assert out.startswith(f"{unused}  ")
    assert "would be freed" in out
    assert "give --yes" in out
    assert unused.exists()
    (project / "kept").mkdir()
    kept = project / "kept/features.json"
    kept.write_text(json.dumps({"folder": unused.name}))
    assert str(unused) not in command(project, "cache", "gc", "--yes")[1]
    kept.write_text("{}")
    code, _, err = command(project, "cache", "gc", "--yes")
    assert code == 2
    assert "does not name a cache folder" in one_line(err)
    kept.unlink()
    assert command(project, "cache", "gc", "--yes")[0] == 0
    assert not unused.exists()
    assert used.exists()

    file = tmp_path / "tiny.tar"
    assert command(project, "cache", "pack", used.name, str(file))[1].strip() == str(file)
    (used / "owner.json").unlink()  # it stays with the project
    before = {path: path.read_bytes() for path in used.rglob("*.json")}
    assert command(project, "cache", "unpack", str(file))[0] == 2  # it is there
    shutil.rmtree(used)
    assert command(project, "train")[0] == 2
    assert command(project, "cache", "unpack", str(file))[1].strip() == str(used)
    assert {path: path.read_bytes() for path in used.rglob("*.json")} == before
    assert command(project, "train")[0] == 0


def test_a_cache_is_loaded_by_split_and_by_id(project: Path) -> None:
    change_params(project, extract__max_failed_percent=10)
    (project / "videos/train/train3.mp4").write_bytes(b"no video")
    (project / "videos/train/train4.mp4").unlink()
    prepare(workspace(project))
    extract(workspace(project))
    (folder,) = (project / "cache").iterdir()
    cache = load_cache(folder)
    assert list(cache.splits) == ["train", "val", "test"]
    train = cache.split("train")
    assert train.video_ids == tuple(f"train{number}" for number in (0, 1, 2, 5, 6, 7))
    assert list(train.failed) == ["train3"]
    assert train.missing == ("train4",)
    assert (train.frames.shape, train.frames.dtype) == ((6, 4, 64), np.float16)
    assert train.mask.all()
    assert train.caption_ids[:3] == ("train0#0", "train0#1", "train1#0")
    assert train.captions[2] == "a blocks number 1 of train"
    assert train.video_of_text.tolist() == np.repeat(np.arange(6), 2).tolist()
    stored = open_cache(folder)
    assert cache.video("test1").tobytes() == stored.videos(["test1"]).frames.tobytes()
    assert cache.caption("val2#1").tobytes() == stored.captions(["val2#1"]).tobytes()
    assert cache.encoder_id == stored.encoder_id
    with pytest.raises(CacheError, match=r"unknown video 'train3'.*only items with features"):
        cache.video("train3")
    with pytest.raises(CacheError, match=r"unknown split 'tset'; did you mean 'test'"):
        cache.split("tset")
    from_project = load_cache(folder, manifest=workspace(project).manifest)
    assert from_project.split("val").frames.tobytes() == cache.split("val").frames.tobytes()
    shutil.rmtree(folder / "manifest")
    with pytest.raises(AnnotationError, match=r"does not exist"):
        load_cache(folder)


def test_the_documented_example_runs(project: Path) -> None:
    prepare(workspace(project))
    extract(workspace(project))
    (folder,) = (project / "cache").iterdir()
    page = (Path(__file__).parents[2] / "docs/cache.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    names: dict[str, Any] = {}
    exec(example.replace("cache/msrvtt-0123456789ab", str(folder)), names)
    assert names["train"].frames.shape == (8, 4, 64)


def test_captions_of_absent_videos_are_not_encoded_until_the_video_is_there(project: Path) -> None:
    hidden = project / "hidden.mp4"
    (project / "videos/test/test2.mp4").rename(hidden)
    space = workspace(project)
    prepare(space)
    none = {"train": 0, "val": 0, "test": 0}
    assert extract(space)["captions"] == {"encoded": 26, "cut": none}  # type: ignore[index]
    hidden.rename(project / "videos/test/test2.mp4")
    prepare(space)
    assert extract(space)["captions"] == {"encoded": 28, "cut": none}  # type: ignore[index]


def test_extract_says_coverage_and_refuses_a_train_split_without_files(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = workspace(project)
    prepare(space)
    extract(space)
    assert "test: 3 of 3 videos, 6 of 6 captions encoded" in capsys.readouterr().err
    for path in (project / "videos/train").iterdir():
        path.unlink()
    prepare(space)
    message = r"none of the 8 train videos has a file \(the first: captions.csv:2: train0\)"
    with pytest.raises(ConfigError, match=message):
        extract(space)


def test_a_split_without_any_features_is_said(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (project / "videos/val").iterdir():
        path.unlink()
    space = workspace(project)
    prepare(space)
    extract(space)
    said = capsys.readouterr().err
    assert "warning: val has no features; training, which selects on it, will be refused" in said
    assert "train has no features" not in said
    with pytest.raises(CacheError, match=r"none of the 3 val videos has features .*prepare` those"):
        train(space)


def test_too_many_failures_are_told_by_every_command_that_needs_the_features(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "videos/test/test1.mp4").write_bytes(b"no video at all")
    space = workspace(project)
    prepare(space)
    reason = r"1 of 14 videos cannot be encoded \(captions.csv:26: test1: .*max_failed_percent is 5"
    with pytest.raises(DecodeError, match=reason):
        extract(space)
    lines = dict(describe(space))
    assert re.search(f"stopped: {reason}", lines["extraction"])
    assert lines["test videos"] == "2 of 3 encoded"
    assert any(line.endswith("faults: 0") for line in verify(space))
    with pytest.raises(CacheError, match=f"the last extraction stopped: {reason}"):
        open_features(space)
    failed = json.loads(space.stopped.read_text())["failed"]
    assert list(failed) == ["test1"]
    change_params(project, extract__max_failed_percent=10)
    extract(workspace(project))
    assert not space.stopped.exists()
    open_features(space)


@pytest.mark.slow
def test_a_dry_run_needs_no_weights(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are those of the architecture; nothing is downloaded, even where there is a network."""
    prepare(workspace(project))
    monkeypatch.setattr("gare_cache.encoders.hub._is_reachable", lambda endpoint: 1 / 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "hub"))
    change_params(project, encoder__model="ViT-S-32-alt", encoder__pretrained="mine")
    tags = import_open_clip().pretrained._PRETRAINED
    monkeypatch.setitem(tags, "ViT-S-32-alt", {"mine": {"hf_hub": "nobody/nothing/"}})
    code, out, _ = command(project, "extract", "--dry-run")
    assert code == 0
    assert "`extract` downloads the weights of ViT-S-32-alt" in out
    assert "14 of 14 to encode" in out
    assert "28 of 28 to encode" in out
    told = float(re.search(r"^to be written +([\d.]+) MB", out, re.M)[1])  # type: ignore[index]
    layout = Layout(max_frames=4, dim=256)
    rows = dict(zip(KINDS, (14, 28), strict=True))
    expected = 0.0
    for kind in KINDS:
        units = -(-rows[kind] // layout.unit_rows(kind)) * layout.unit_rows(kind)
        expected += units * sum(spec.row_bytes for spec in layout.arrays(kind))
    assert told == pytest.approx(expected / 2**20, abs=0.1)
    assert re.search(r"^fp32 +[\d,]+ frames/s, [\d,]+ captions/s", out, re.M)


def test_damaged_tensors_that_heads_start_from_are_noticed_when_read(project: Path) -> None:
    space = workspace(project)
    prepare(space)
    extract(space)
    cache, _ = open_features(space)
    path = cache.folder / schema.HEAD_START
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CacheError, match=r"is damaged: it is not what was written; delete it and"):
        cache.head_start()
    path.unlink()
    extract(space)
    assert cache.head_start()


@pytest.mark.parametrize("name", ["video/frames", "video/times", "text/features"])
def test_a_flipped_bit_of_a_chunk_is_noticed_when_it_is_first_read(
    project: Path, name: str
) -> None:
    """It changed training and scores with exit code 0."""
    space = workspace(project)
    prepare(space)
    extract(space)
    cache, _ = open_features(space)
    kind = name.split("/")[0]
    spec = next(spec for spec in cache.layout.arrays(kind) if spec.name == name)  # type: ignore[arg-type]
    path = chunk_path(cache.folder, spec, 0)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    read = cache.videos if kind == "video" else cache.captions
    ids = list(cache.tables[kind].latest())  # type: ignore[index]
    with pytest.raises(CacheError, match=r"is damaged: it does not have the checksum of the jour"):
        read(ids)
    content[0] ^= 1
    path.write_bytes(content)
    read(ids)
