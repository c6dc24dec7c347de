"""Feature releases, written here in their own described formats, give exactly their values."""

import csv
import gzip
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from gare_cache.cache.exchange.layouts import ReleaseOptions
from gare_cache.errors import ConfigError, FeatureFileError
from gare_cache.project.features import open_features
from gare_cache.stages.exchange import import_features, preview_import
from gare_cache.stages.import_request import ImportRequest, release_options
from tests.cache.exchange.test_files import write_hdf5
from tests.stages.test_exchange import CAPTIONS, DIM, VIDEOS, all_files, features, make_project
from tests.test_cli import run
from tests.tiny import workspace

RNG = np.random.default_rng(3)
FRAMES = {v: RNG.standard_normal((2 + k % 4, DIM)).astype("<f4") for k, v in enumerate(VIDEOS)}
TEXT = {caption: RNG.standard_normal(DIM).astype("<f2") for caption in CAPTIONS}
TOKENS = {c: RNG.standard_normal((3 + k % 3, DIM)).astype("<f4") for k, c in enumerate(CAPTIONS)}
QIDS = {caption: str(100 + k) for k, caption in enumerate(CAPTIONS)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    """A map in which videos keep their ids and captions are numbered queries."""
    return write_map(tmp_path / "ids.csv", {**{v: v for v in VIDEOS}, **swapped(QIDS)})


def swapped(names: dict[str, str]) -> dict[str, str]:
    return {value: key for key, value in names.items()}


def write_map(path: Path, rows: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("theirs", "ours"), *rows.items()])
    return path


def moment_detr(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """clip/VID.npz with `features`, clip_text/qidQID.npz with two arrays."""
    clip, text = folder / "clip", folder / "clip_text"
    clip.mkdir()
    text.mkdir()
    for video, rows in frames.items():
        np.savez(clip / f"{video}.npz", features=rows)
    for caption, vector in TEXT.items():
        np.savez(
            text / f"qid{QIDS[caption]}.npz",
            last_hidden_state=TOKENS[caption],
            pooler_output=vector,
        )
    return clip, text


def npy_folders(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """KEY.npy beside KEY.json, as clip-video-encode writes."""
    for name, items in {"videos": frames, "texts": {QIDS[c]: v for c, v in TEXT.items()}}.items():
        (folder / name).mkdir()
        for key, value in items.items():
            np.save(folder / name / f"{key}.npy", value)
            (folder / name / f"{key}.json").write_text(json.dumps({"key": key}))
    return folder / "videos", folder / "texts"


def h5_files(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """One dataset a video, as CARE's; one a caption."""
    for name, items in {"videos": frames, "texts": {QIDS[c]: v for c, v in TEXT.items()}}.items():
        with h5py.File(folder / f"{name}.hdf5", "w") as file:
            for key, value in items.items():
                file[key] = value
    return folder / "videos.hdf5", folder / "texts.hdf5"


def torch_dicts(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """torch.save of id -> tensor; ids of captions are integers, as MSR-VTT's are."""
    torch.save({v: torch.tensor(x) for v, x in frames.items()}, folder / "clipvitl14.pth")
    captions = {int(QIDS[c]): torch.tensor(x) for c, x in TEXT.items()}
    torch.save(captions, folder / "text.pth", _use_new_zipfile_serialization=False)
    return folder / "clipvitl14.pth", folder / "text.pth"


def big_files(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """feature.bin, id.txt, shape.txt and video2frames.txt; rows of a video lie apart."""
    ids = {video: [f"{video}_{row}" for row in range(len(x))] for video, x in frames.items()}
    rows = {id_: x[k] for video, x in frames.items() for k, id_ in enumerate(ids[video])}
    write_big_file(folder / "videos", dict(sorted(rows.items(), reverse=True)))
    (folder / "videos" / "video2frames.txt").write_text(str(ids))
    write_big_file(folder / "texts", {QIDS[c]: x for c, x in TEXT.items()})
    return folder / "videos", folder / "texts"


def write_big_file(folder: Path, rows: dict[str, Any]) -> None:
    folder.mkdir()
    matrix = np.stack([*rows.values()]).astype("<f4")
    matrix.tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text(f"{matrix.shape[0]} {matrix.shape[1]}")
    (folder / "id.txt").write_text(" ".join(rows))


def web_datasets(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """A tar of KEY.npy, KEY.json and KEY.txt."""
    write_tar(folder / "videos.tar", frames)
    write_tar(folder / "texts.tar", {QIDS[c]: x for c, x in TEXT.items()})
    return folder / "videos.tar", folder / "texts.tar"


def write_tar(path: Path, items: dict[str, Any]) -> None:
    with tarfile.open(path, "w") as archive:
        for key, value in items.items():
            content = io.BytesIO()
            np.save(content, value)
            add_member(archive, f"{key}.npy", content.getvalue())
            add_member(archive, f"{key}.json", json.dumps({"key": key}).encode())
            add_member(archive, f"{key}.txt", b"a sentence")


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


QVHIGHLIGHTS = {
    "video_key": "features",
    "caption_key": "pooler_output",
    "caption_name": "qid{}",
}
RELEASES: dict[str, Any] = {
    "npz-per-item": (moment_detr, QVHIGHLIGHTS),
    "npy-per-item": (npy_folders, {}),
    "h5-per-item": (h5_files, {}),
    "torch-dict": (torch_dicts, {}),
    "bigfile": (big_files, {}),
    "webdataset": (web_datasets, {}),
    "huggingface": (lambda *files: parquet_files(*files), {}),
}


def bring(project: Path, videos: Path, texts: Path, ignore: bool = False, **options: Any) -> Any:
    release = ReleaseOptions(**options)
    return import_features(
        workspace(project),
        ImportRequest(
            [videos],
            captions=[texts],
            encoder_id="CLIP",
            ignore_unknown=ignore,
            release=release,
        ),
    )


def cached(project: Path, written: Any) -> dict[str, dict[str, Any]]:
    """Return frames, seconds and text features of the cache by id."""
    cache, _ = open_features(workspace(project))
    group = zarr.open_group(project / "cache" / written["folder"] / "features.zarr", mode="r")
    rows = {kind: cache.tables[kind].latest() for kind in ("video", "text")}
    counts = np.asarray(group["video/num_frames"][:])
    frames, times = np.asarray(group["video/frames"][:]), np.asarray(group["video/times"][:])
    text = np.asarray(group["text/features"][:])
    return {
        "frames": {id_: frames[r, : counts[r]] for id_, r in rows["video"].items()},
        "times": {id_: times[r, : counts[r]] for id_, r in rows["video"].items()},
        "text": {id_: text[r] for id_, r in rows["text"].items()},
    }


@pytest.mark.parametrize("layout", RELEASES)
def test_a_release_gives_exactly_its_values(
    project: Path, tmp_path: Path, ids: Path, layout: str
) -> None:
    write, options = RELEASES[layout]
    written = bring(
        project, *write(tmp_path), layout=layout, ids=ids, seconds_per_row=2.0, **options
    )
    assert written["videos"] == {"encoded": 14, "failed": 0, "missing": 0}
    assert written["captions"] == {"encoded": 28, "failed": 0, "missing": 0}
    held = cached(project, written)
    for video, rows in FRAMES.items():
        assert np.array_equal(held["frames"][video], rows.astype("<f2"))
        assert held["times"][video].tolist() == [2.0 * row for row in range(len(rows))]
    for caption, vector in TEXT.items():
        assert np.array_equal(held["text"][caption], vector)


@pytest.mark.parametrize("layout", RELEASES)
def test_rows_that_are_all_zero_are_left_out_and_counted(
    project: Path, tmp_path: Path, ids: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write, options = RELEASES[layout]
    frames = {video: rows.copy() for video, rows in FRAMES.items()}
    frames[VIDEOS[3]][1:3] = 0
    frames[VIDEOS[5]][:] = 0
    written = bring(
        project, *write(tmp_path, frames), layout=layout, ids=ids, seconds_per_row=1.5, **options
    )
    assert f"{2 + len(FRAMES[VIDEOS[5]])} rows of 2 videos" in capsys.readouterr().err
    assert written["videos"] == {"encoded": 13, "failed": 1, "missing": 0}
    held = cached(project, written)
    kept = [0, *range(3, len(FRAMES[VIDEOS[3]]))]
    assert np.array_equal(held["frames"][VIDEOS[3]], FRAMES[VIDEOS[3]][kept].astype("<f2"))
    assert held["times"][VIDEOS[3]].tolist() == [1.5 * row for row in kept]


@pytest.mark.parametrize("pool", ["mean", "eot"])
def test_token_features_are_refused_unless_a_pooling_is_named(
    project: Path, tmp_path: Path, ids: Path, pool: str
) -> None:
    sources = moment_detr(tmp_path)
    options = {"layout": "npz-per-item", "ids": ids, **QVHIGHLIGHTS}
    options["caption_key"] = "last_hidden_state"
    with pytest.raises(FeatureFileError, match=r"features of tokens.*--pool mean\|eot"):
        bring(project, *sources, **options)
    held = cached(project, bring(project, *sources, pool=pool, **options))
    for caption, rows in TOKENS.items():
        wanted = rows.astype("<f8").mean(axis=0) if pool == "mean" else rows[-1]
        assert np.array_equal(held["text"][caption], wanted.astype("<f2"))


def test_an_interrupted_or_repeated_import_changes_nothing_and_options_make_another_cache(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    sources = npy_folders(tmp_path)
    first = bring(project, *sources, layout="npy-per-item", ids=ids)
    before = all_files(project)
    assert bring(project, *sources, layout="npy-per-item", ids=ids) == first
    assert all_files(project) == before
    other = bring(project, *sources, layout="npy-per-item", ids=ids, seconds_per_row=2.0)
    assert other["folder"] != first["folder"]


def test_a_dry_run_shows_the_first_items_and_writes_nothing(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    sources = moment_detr(tmp_path)
    release = ReleaseOptions("npz-per-item", ids=ids, seconds_per_row=2.0, **QVHIGHLIGHTS)
    before = all_files(project)
    lines = preview_import(
        workspace(project),
        ImportRequest([sources[0]], captions=[sources[1]], encoder_id="x", release=release),
    )
    assert all_files(project) == before
    assert lines[0] == "video: 14 of 14 in the manifest"
    first = sorted(VIDEOS)[0]
    norm = np.linalg.norm(FRAMES[first][0].astype("<f8"))
    last = 2 * (len(FRAMES[first]) - 1)
    assert lines[1] == (
        f"  {first}: {len(FRAMES[first])} x {DIM} float32, first row of norm {norm:.4g}, "
        f"0 to {last} s"
    )
    assert lines[6] == "text: 28 of 28 in the manifest"
    assert f"sentence a about {VIDEOS[0]}" in lines[7]
    assert len(lines) == 12


def test_the_command_takes_every_option(
    project: Path, tmp_path: Path, ids: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, text = moment_detr(tmp_path)
    monkeypatch.chdir(project)
    code, out, err = run(
        "import-features", str(clip), "--layout", "npz-per-item", "--captions", str(text),
        "--video-key", "features", "--caption-key", "pooler_output", "--caption-name", "qid{}",
        "--ids", str(ids), "--seconds-per-row", "2", "--encoder-id", "x", "--dry-run",
    )  # fmt: skip
    assert code == 0, err
    assert "video: 14 of 14 in the manifest" in out


def damage_key(sources: tuple[Path, Path]) -> None:
    np.savez(sources[0] / f"{VIDEOS[2]}.npz", other=FRAMES[VIDEOS[2]])


def damage_type(sources: tuple[Path, Path]) -> None:
    np.savez(sources[0] / f"{VIDEOS[2]}.npz", features=np.ones((2, DIM), dtype=np.int64))


def damage_id(sources: tuple[Path, Path]) -> None:
    np.savez(sources[0] / "stranger.npz", features=FRAMES[VIDEOS[2]])


def damage_shape(sources: tuple[Path, Path]) -> None:
    np.savez(sources[0] / f"{VIDEOS[2]}.npz", features=np.ones(DIM))


def damage_width(sources: tuple[Path, Path]) -> None:
    np.savez(sources[0] / f"{VIDEOS[2]}.npz", features=np.ones((2, DIM + 1)))


def damage_objects(sources: tuple[Path, Path]) -> None:
    rows: Any = np.array([{"a": 1}], dtype=object)
    np.savez(sources[0] / f"{VIDEOS[2]}.npz", features=rows)


def damage_name(sources: tuple[Path, Path]) -> None:
    np.savez(sources[1] / "query7.npz", pooler_output=TEXT[CAPTIONS[0]])


def damage_bytes(sources: tuple[Path, Path]) -> None:
    file = sources[0] / f"{VIDEOS[2]}.npz"
    file.write_bytes(file.read_bytes()[:200])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_key, "holds no array 'features' .found: other."),
        (damage_type, f"'video/{VIDEOS[2]}' holds int64"),
        (damage_id, "1 of 15 items of .* are not in .*: stranger"),
        (damage_shape, f"'video/{VIDEOS[2]}' has shape"),
        (damage_width, "has width"),
        (damage_objects, "pickled Python objects"),
        (damage_name, "'query7' is not named like --caption-name qid{}"),
        (damage_bytes, f"{VIDEOS[2]}.npz"),
    ],
)
def test_a_faulty_release_is_refused_in_one_line(
    project: Path, tmp_path: Path, ids: Path, damage: Any, message: str
) -> None:
    sources = moment_detr(tmp_path)
    damage(sources)
    before = all_files(project)
    with pytest.raises(FeatureFileError, match=message):
        bring(project, *sources, layout="npz-per-item", ids=ids, **QVHIGHLIGHTS)
    assert all_files(project) == before


def test_items_that_the_map_lacks_are_left_out_when_asked(
    project: Path, tmp_path: Path, ids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = moment_detr(tmp_path)
    damage_id(sources)
    bring(project, *sources, ignore=True, layout="npz-per-item", ids=ids, **QVHIGHLIGHTS)
    assert "stranger; left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "must begin with the line theirs,ours"),
        ("", "must begin with the line theirs,ours"),
        ("theirs,ours\nx\n", "row 2: two ids are needed"),
        ("theirs,ours\nx,y\nx,z\n", "row 3: an id occurs twice"),
        ("theirs,ours\nx,y\nz,y\n", "row 3: an id occurs twice"),
        ('theirs,ours\n"x,y\n', "cannot be read"),
    ],
)
def test_a_faulty_map_of_ids_is_refused(
    project: Path, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "map.csv"
    path.write_text(text)
    with pytest.raises(FeatureFileError, match=message):
        bring(project, *npy_folders(tmp_path), layout="npy-per-item", ids=path)


def test_retrieved_text_beside_its_indices_is_refused(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    videos, texts = h5_files(tmp_path)
    with h5py.File(videos, "a") as file:
        file[f"{VIDEOS[0]}_i"] = np.arange(100)
    with pytest.raises(FeatureFileError, match=f"are not in .*{VIDEOS[0]}_i"):
        bring(project, videos, texts, layout="h5-per-item", ids=ids)
    identity = write_map(
        tmp_path / "all.csv", {v: v for v in [*VIDEOS, f"{VIDEOS[0]}_i"]} | swapped(QIDS)
    )
    with pytest.raises(FeatureFileError, match=f"'video/{VIDEOS[0]}_i' has shape"):
        bring(project, videos, texts, layout="h5-per-item", ids=identity)


def test_a_key_names_the_dataset_of_each_group(project: Path, tmp_path: Path, ids: Path) -> None:
    _, texts = h5_files(tmp_path)
    videos = tmp_path / "groups.h5"
    with h5py.File(videos, "w") as file:
        for video, rows in FRAMES.items():
            file[f"{video}/clip"] = rows
            file[f"{video}/labels"] = np.arange(3)
    held = cached(
        project, bring(project, videos, texts, layout="h5-per-item", ids=ids, video_key="clip")
    )
    assert np.array_equal(held["frames"][VIDEOS[0]], FRAMES[VIDEOS[0]].astype("<f2"))
    with pytest.raises(FeatureFileError, match=r"holds no .*/s3d"):
        bring(project, videos, texts, layout="h5-per-item", ids=ids, video_key="s3d")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "zip"}, "npz-per-item"),
        ({"layout": "npy-per-item", "video_key": "a"}, "--video-key has no effect"),
        ({"layout": "npy-per-item", "pool": "max"}, "mean"),
        ({"layout": "npy-per-item", "caption_name": "qid"}, "must hold {} once"),
        ({"layout": "npy-per-item", "seconds_per_row": 0.0}, "above 0"),
        ({"layout": None, "pool": "mean"}, "--pool needs --layout"),
        ({"layout": None, "fps": 2.0}, "--fps needs --layout"),
        ({"layout": "npy-per-item", "fps": 0.0}, "--fps is 0.0; it must be finite and above 0"),
        ({"layout": "npy-per-item", "fps": 2.0, "seconds_per_row": 0.5}, "say the same"),
    ],
)
def test_an_option_without_effect_or_meaning_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        release_options(**options)


def test_rows_of_a_second_are_the_other_spelling_of_seconds_of_a_row() -> None:
    assert release_options("bigfile", fps=0.5) == release_options("bigfile", seconds_per_row=2.0)


def test_videos_wider_than_captions_are_refused_with_the_remedy(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    both = {video: np.concatenate([x, x], axis=1) for video, x in FRAMES.items()}
    sources = npy_folders(tmp_path, both)
    with pytest.raises(
        FeatureFileError,
        match=r"caption '.*' of .*texts has width 8, video '.*' of .*videos 16; .*"
        "CLIP and SlowFast.*import those of CLIP alone",
    ):
        bring(project, *sources, layout="npy-per-item", ids=ids)


@pytest.mark.parametrize("kind", [0, 1])
def test_two_widths_of_one_kind_are_refused_with_both_ids(
    project: Path, tmp_path: Path, ids: Path, kind: int
) -> None:
    sources = npy_folders(tmp_path)
    names = sorted(file.stem for file in sources[kind].glob("*.npy"))
    wide = np.load(sources[kind] / f"{names[3]}.npy")
    np.save(sources[kind] / f"{names[3]}.npy", np.concatenate([wide, wide], axis=-1))
    ours = [names[3], names[0]] if kind == 0 else [swapped(QIDS)[names[n]] for n in (3, 0)]
    with pytest.raises(
        FeatureFileError, match=rf"{ours[0]}' has width 16, but '\w+/{ours[1]}' has 8; all vectors"
    ):
        bring(project, *sources, layout="npy-per-item", ids=ids)


def parquet_files(folder: Path, frames: dict[str, Any] = FRAMES) -> tuple[Path, Path]:
    """One Parquet file a kind, in row groups of 3: id and features, as lists of float32."""
    captions = {QIDS[c]: v for c, v in TEXT.items()}
    for name, items, kind in (
        ("videos", frames, pa.list_(pa.list_(pa.float32()))),
        ("texts", captions, pa.list_(pa.float16())),
    ):
        schema = pa.schema([("id", pa.string()), ("features", kind)])
        columns = {"id": [*items], "features": [list(map(_plain, x)) for x in items.values()]}
        (folder / name).mkdir()
        pq.write_table(
            pa.table(columns, schema), folder / name / "train-00000-of-00001.parquet",
            row_group_size=3,
        )  # fmt: skip
    return folder / "videos", folder / "texts"


def _plain(value: Any) -> Any:
    return value.tolist() if value.ndim else value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("id"), "no column 'id'"),
        (lambda t: t.drop_columns("features"), "no column 'features'"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "twice"),
        (lambda t: t.set_column(1, "features", pa.array([[[1.0], [2.0, 3.0]]] * 14)), "one width"),
        (lambda t: t.set_column(1, "features", pa.array([[["a"]]] * 14)), "lists of numbers"),
        (lambda t: t.set_column(1, "features", pa.array([[[1.0]], None] * 7)), "7 missing"),
        (lambda t: t.set_column(0, "id", pa.array(range(14))), "does not hold strings"),
    ],
)
def test_a_faulty_parquet_file_is_refused(
    project: Path, tmp_path: Path, ids: Path, change: Any, message: str
) -> None:
    videos, texts = parquet_files(tmp_path)
    file = next(videos.iterdir())
    pq.write_table(change(pq.read_table(file)), file)
    with pytest.raises(FeatureFileError, match=message):
        bring(project, videos, texts, layout="huggingface", ids=ids)


def test_a_parquet_file_whose_schema_contradicts_its_columns_is_refused(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    """The ids become required, though their column counts missing ones: pyarrow would abort."""
    videos, texts = parquet_files(tmp_path)
    file = next(videos.iterdir())
    optional, required = b"\x15\x0c\x25\x02\x18", b"\x15\x0c\x25\x00\x18"
    content = file.read_bytes()
    assert optional in content
    file.write_bytes(content.replace(optional, required))
    with pytest.raises(FeatureFileError, match=r"cannot be read as Parquet \(Definition level"):
        bring(project, videos, texts, layout="huggingface", ids=ids)


def test_a_pooling_of_pooled_captions_is_refused(project: Path, tmp_path: Path, ids: Path) -> None:
    with pytest.raises(ConfigError, match="--pool has no effect"):
        bring(project, *npy_folders(tmp_path), layout="npy-per-item", ids=ids, pool="mean")


def test_at_least_one_frame_is_kept(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--max-frames is 0; it must be at least 1"):
        import_features(
            workspace(project),
            ImportRequest(
                [write_hdf5(tmp_path / "features.h5", features())], encoder_id="x", max_frames=0
            ),
        )


class Harmful:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"a": Harmful()}, "weights_only"),
        ({"a": np.ones((2, DIM))}, "weights_only"),
        ([torch.ones(2, DIM)], "must be a dict from ids to tensors"),
        ({"a": {"b": torch.ones(2, DIM)}}, "must be a dict from ids to tensors"),
        ({1: torch.ones(2, DIM), "1": torch.ones(2, DIM)}, "an id twice"),
        ({VIDEOS[0]: torch.ones(2, DIM, dtype=torch.long)}, "holds int64"),
        ({VIDEOS[0]: torch.ones(DIM)}, "has shape"),
        ({VIDEOS[0]: torch.ones(2, DIM).to_sparse()}, "not a dense one"),
    ],
)
def test_a_faulty_torch_file_is_refused(
    project: Path, tmp_path: Path, held: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, texts = torch_dicts(tmp_path)
    torch.save(held, tmp_path / "bad.pth")
    with pytest.raises(FeatureFileError, match=message):
        bring(project, tmp_path / "bad.pth", texts, layout="torch-dict")
    assert not Path("ran").exists()


PART_OF_SEVERAL_DISKS = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + b"PK\5\6".ljust(22, b"\0")


@pytest.mark.parametrize("content", [b"", b"\x80", PART_OF_SEVERAL_DISKS])
def test_a_file_that_is_no_checkpoint_is_refused(
    project: Path, tmp_path: Path, content: bytes
) -> None:
    _, texts = torch_dicts(tmp_path)
    (tmp_path / "bad.pth").write_bytes(content)
    with pytest.raises(FeatureFileError, match=r"bad\.pth cannot be read as a dict of tensors"):
        bring(project, tmp_path / "bad.pth", texts, layout="torch-dict")
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(FeatureFileError, match=r"bad\.npz "):
        import_features(workspace(project), ImportRequest([tmp_path / "bad.npz"], encoder_id="x"))


def test_bfloat16_tensors_keep_their_values(project: Path, tmp_path: Path, ids: Path) -> None:
    _, texts = torch_dicts(tmp_path)
    frames = {video: torch.tensor(x).bfloat16() for video, x in FRAMES.items()}
    torch.save(frames, tmp_path / "brain.pth")
    held = cached(
        project, bring(project, tmp_path / "brain.pth", texts, layout="torch-dict", ids=ids)
    )
    for video, rows in frames.items():
        assert np.array_equal(held["frames"][video], rows.float().numpy().astype("<f2"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("shape.txt", "5", "two numbers"),
        ("shape.txt", "-5 8", "two numbers"),
        ("shape.txt", "5 8", "different ids"),
        ("id.txt", "a a", "different ids"),
        ("feature.bin", "1234", "holds 4 bytes"),
        ("video2frames.txt", "{'a': ['nothing']}", "'nothing' of 'a' is not in id.txt"),
        ("video2frames.txt", "{'a': 'text'}", "lists of ids of frames"),
        ("video2frames.txt", "__import__('os')", "not the text of a dict"),
        ("video2frames.txt", "{'a': [", "not the text of a dict"),
    ],
)
def test_a_faulty_big_file_is_refused(
    project: Path, tmp_path: Path, ids: Path, name: str, text: str, message: str
) -> None:
    videos, texts = big_files(tmp_path)
    (videos / name).write_text(text)
    with pytest.raises(FeatureFileError, match=message):
        bring(project, videos, texts, layout="bigfile", ids=ids)


def link(archive: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("linked.npy")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(member)


def objects(archive: tarfile.TarFile) -> None:
    content = io.BytesIO()
    np.save(content, np.array([{"a": 1}], dtype=object))
    add_member(archive, "objects.npy", content.getvalue())


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (link, "linked.npy is a link"),
        (objects, "objects.npy holds pickled Python objects"),
        (lambda archive: add_member(archive, "text.npy", b"hello"), "text.npy is not an npy"),
        (
            lambda archive: add_member(archive, f"{VIDEOS[0]}.npy", b"hello"),
            f"holds {VIDEOS[0]}.npy twice",
        ),
    ],
)
def test_a_faulty_member_of_a_webdataset_is_refused(
    project: Path, tmp_path: Path, ids: Path, add: Any, message: str
) -> None:
    videos, texts = web_datasets(tmp_path)
    with tarfile.open(videos, "a") as archive:
        add(archive)
    with pytest.raises(FeatureFileError, match=message):
        bring(project, videos, texts, layout="webdataset", ids=ids)


def test_a_compressed_or_shortened_webdataset_is_refused(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    videos, texts = web_datasets(tmp_path)
    content = videos.read_bytes()
    videos.write_bytes(gzip.compress(content))
    with pytest.raises(FeatureFileError, match="without compression"):
        bring(project, videos, texts, layout="webdataset", ids=ids)
    videos.write_bytes(content[:600])
    with pytest.raises(FeatureFileError, match=r"videos\.tar"):
        bring(project, videos, texts, layout="webdataset", ids=ids)


def test_an_array_in_fortran_order_is_read_from_a_webdataset(
    project: Path, tmp_path: Path, ids: Path
) -> None:
    frames = {video: np.asfortranarray(x) for video, x in FRAMES.items()}
    sources = web_datasets(tmp_path, frames)
    held = cached(project, bring(project, *sources, layout="webdataset", ids=ids))
    assert np.array_equal(held["frames"][VIDEOS[1]], FRAMES[VIDEOS[1]].astype("<f2"))
