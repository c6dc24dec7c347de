"""Every layout of an export goes out and comes in again as the same cache, to the bit."""

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file

from gare_cache.cache import schema
from gare_cache.cache.exchange import export as exports
from gare_cache.cache.exchange.names import file_names
from gare_cache.cache.reader import open_cache
from gare_cache.errors import CacheError, ConfigError, FeatureFileError
from gare_cache.project.features import open_features
from gare_cache.stages.exchange import export, import_features, preview_import
from gare_cache.stages.extract import extract
from gare_cache.stages.import_request import ImportRequest, release_options
from gare_cache.stages.prepare import prepare
from tests.cache.exchange.test_files import write_hdf5
from tests.stages.test_exchange import arrays
from tests.test_cli import run
from tests.tiny import change_params, tiny_params, workspace, write_params

DIM = 8
LAYOUTS = [*exports.EXPORTS]
FOLDERS = [layout for layout in LAYOUTS if layout != exports.HDF5]
# Videos of ids that are no file names as they stand, or only one of two on some disks.
ODD = [
    "plain", "v_a-B_c@1-2.5", "dots.in.it", "folder/clip", ".hidden", "Émile", "émile", "same",
    "SAME", "a%2Fb", "a:b", "日本語", "sp ace", "test-0", "test.npz", "val 1", "--flag", "x" * 180,
]  # fmt: skip
FAILED = "dots.in.it"
ONE_FRAME = "plain"
NO_TIMES = "same"


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})


def split_of(number: int) -> str:
    """Give splits that alternate, so that those of a unit differ."""
    return ("train", "test", "train", "val")[number % 4]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with an imported cache of odd ids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GARE_CACHE_ROOT", raising=False)
        patch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})
        return make_odd_project(tmp_path_factory.mktemp("odd") / "project")


def make_odd_project(folder: Path) -> Path:
    folder.mkdir()
    rows = [(id_, f'{k}: a, "b"\tof {id_}', split_of(n)) for n, id_ in enumerate(ODD) for k in "ab"]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "caption", "split"), *rows])
    values = tiny_params(Path("unused"))
    del values["encoder"], values["extract"]
    values["dataset"]["video_roots"] = []
    values["head"]["aggregator"]["init"] = "random"
    write_params(folder, values)
    prepare(workspace(folder))
    rng = np.random.default_rng(5)
    items: dict[str, Any] = {}
    order = rng.permutation(len(ODD))
    captions = [f"{ODD[n]}#{k}" for n in order for k in range(2)]
    for place, n in enumerate(order):
        count = 1 if ODD[n] == ONE_FRAME else 2 + place % 4
        items[f"video_{place}"] = rng.standard_normal((count, DIM)).astype("<f4")
        if ODD[n] == FAILED:
            items[f"video_{place}"][-1, 2] = np.nan
    packed = {
        "video_ids": [ODD[n] for n in order],
        "frames": np.full((len(ODD), 6, DIM), np.nan, "<f4"),
        "num_frames": np.array([len(v) for v in items.values()]),
        "times": rng.uniform(0, 100, (len(ODD), 6)).astype("<f4"),
        "caption_ids": captions,
        "text": rng.standard_normal((len(captions), DIM)).astype("<f4"),
    }
    for place, rows_of in enumerate(items.values()):
        packed["frames"][place, : len(rows_of)] = rows_of
    packed["times"][packed["video_ids"].index(NO_TIMES)] = np.nan
    packed["times"][packed["video_ids"].index("SAME"), 1] = np.nan
    packed["text"][captions.index(f"{ODD[3]}#1")] = np.inf
    source = write_hdf5(folder.parent / "odd.h5", packed)
    request = ImportRequest([source], encoder_id="CLIP, mine", logit_scale=3.25)
    import_features(workspace(folder), request)
    return folder


def of(written: Any, project: Path) -> dict[str, Any]:
    """Return all that a round trip must keep."""
    cache = open_cache(project / "cache" / written["folder"])
    start = load_file(cache.folder / "encoder_init.safetensors")
    return {
        "digest": cache.content_digest,
        "arrays": arrays(project, written["folder"]),
        "encoder": cache.attributes["identity"]["encoder"],
        "encoder_id": cache.encoder_id,
        "head start": {name: tensor.tolist() for name, tensor in start.items()},
        "failed": sorted(cache.failures()),
        "counts": {kind: cache.counts(kind) for kind in ("video", "text")},
    }


def again(project: Path, *paths: Path, **options: Any) -> Any:
    """Import into an output folder of its own, so that the project keeps its features."""
    space = workspace(project)
    kept = space.features.read_bytes()
    try:
        return import_features(space, ImportRequest(paths, **options))
    finally:
        space.features.write_bytes(kept)


@pytest.mark.parametrize("shard_mib", [None, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_round_trip_is_exact(
    made: Path, tmp_path: Path, layout: str, shard_mib: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shard_mib:
        if layout not in exports._SHARDED:
            pytest.skip("one file, or one an item")
        # Rows of 96 bytes in videos, 16 in captions: 3 videos or 20 captions a file.
        monkeypatch.setattr(exports.ExportSource, "shard_items", lambda *_: 3)
    space = workspace(made)
    written = json.loads(space.features.read_text())
    first = of(written, made)
    assert first["counts"]["video"] == {"ok": len(ODD) - 1, "failed": 1, "pending": 0}
    assert first["counts"]["text"] == {"ok": 2 * len(ODD) - 1, "failed": 1, "pending": 0}
    path = export(space, tmp_path / "out", layout=layout, shard_mib=shard_mib)
    second = again(made, path)
    assert second["folder"] != written["folder"]
    assert of(second, made) == first
    if layout in FOLDERS:
        named = again(made, path, release=release_options(layout))
        assert named == second
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_cache_gives_the_same_bytes(made: Path, tmp_path: Path, layout: str) -> None:
    if layout == exports.HDF5:
        pytest.skip("HDF5 stores the time of writing")
    contents = []
    for name in "ab":
        path = export(workspace(made), tmp_path / name, layout=layout)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        contents.append({file.relative_to(path): file.read_bytes() for file in files})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_exported_apart_come_in_together(made: Path, tmp_path: Path, layout: str) -> None:
    space = workspace(made)
    paths = [export(space, tmp_path / s, [s], layout=layout) for s in ("train", "val", "test")]
    second = again(made, *paths)
    first = json.loads(space.features.read_text())
    assert (second["videos"], second["captions"]) == (first["videos"], first["captions"])
    assert second["encoder_id"] == first["encoder_id"]
    assert second["max_frames"] == first["max_frames"] == 6


@pytest.mark.parametrize("layout", FOLDERS)
def test_an_extracted_cache_is_the_same_after_the_round_trip(
    tmp_path: Path, tiny_encoder_dir: Path, layout: str
) -> None:
    from tests.tiny import make_project

    project = make_project(tmp_path / "videos", tiny_encoder_dir)
    space = workspace(project)
    prepare(space)
    first = of(extract(space), project)
    path = export(space, tmp_path / "out", layout=layout)
    change_params(project, dataset__video_roots=[], encoder=None)
    (project / "videos").rename(tmp_path / "gone")
    space = workspace(project)
    prepare(space)
    assert of(import_features(space, ImportRequest([path])), project) == first


@pytest.mark.parametrize("layout", LAYOUTS)
def test_videos_without_captions_go_out_and_in(tmp_path: Path, layout: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "captions.csv").write_text("video,caption,split\na,,test\nb,,train\n")
    values = tiny_params(Path("unused"))
    del values["encoder"], values["extract"]
    values["dataset"]["video_roots"] = []
    write_params(project, values)
    prepare(workspace(project))
    source = write_hdf5(
        tmp_path / "in.h5", {"video_ids": ["b", "a"], "frames": np.ones((2, 3, DIM), "<f4")}
    )
    first = import_features(workspace(project), ImportRequest([source], encoder_id="x"))
    path = export(workspace(project), tmp_path / "out", layout=layout)
    assert of(again(project, path), project) == of(first, project)


def test_the_files_of_npz_per_item_are_those_of_moment_retrieval(
    made: Path, tmp_path: Path
) -> None:
    path = export(workspace(made), tmp_path / "out", layout="npz-per-item")
    cache, _ = open_features(workspace(made))
    held = cache.videos([ONE_FRAME, "v_a-B_c@1-2.5", FAILED])
    with np.load(path / "video" / f"{ONE_FRAME}.npz") as file:
        assert set(file) == {"features", "times"}
        assert np.array_equal(file["features"], held.frames[0, :1])
        assert np.array_equal(file["times"], held.times[0, :1])
    with np.load(path / "video" / "v_a-B_c@1-2.5.npz") as file:
        assert len(file["features"]) == held.num_frames[1]
    with np.load(path / "video" / f"{FAILED}.npz") as file:
        assert file["features"].shape == (0, DIM)
    with np.load(path / "text" / f"{ONE_FRAME}#1.npz") as file:
        assert np.array_equal(file["pooler_output"], cache.captions([f"{ONE_FRAME}#1"])[0])
    names = {file.stem for file in (path / "video").iterdir()}
    assert {"folder%2Fclip", "%2Ehidden", "a%252Fb", "a%3Ab", "日本語", "%53%41%4D%45"} <= names
    assert len({name.casefold() for name in names}) == len(ODD)
    with (path / "text.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0].keys() == {"file", "id", "video_id", "split", "caption", "reason"}
    assert {row["id"]: row["caption"] for row in rows}["plain#0"] == '0: a, "b"\tof plain'.replace(
        "0:", "a:"
    )
    # Also as any release: by keys and names, where ids are file names.
    request = ImportRequest(
        [path / "video"],
        captions=[path / "text"],
        encoder_id="x",
        ignore_unknown=True,
        release=release_options("npz-per-item", video_key="features", fps=2.0),
    )
    lines = preview_import(workspace(made), request)
    assert lines[0].startswith("video: ")


def test_the_tars_are_those_of_webdataset(made: Path, tmp_path: Path) -> None:
    path = export(workspace(made), tmp_path / "out", layout="webdataset")
    with tarfile.open(path / "video-00000.tar") as archive:
        members = archive.getmembers()
        names = [member.name for member in members]
        assert all(name.count(".") == 1 for name in names)
        assert [name.split(".")[1] for name in names] == ["npy", "json"] * len(ODD)
        assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
        content = archive.extractfile("v_a-B_c@1-2%2E5.json")
        assert content is not None
        about = json.loads(content.read())
        assert (about["id"], about["split"], about["reason"]) == ("v_a-B_c@1-2.5", "test", None)
        array = archive.extractfile("v_a-B_c@1-2%2E5.npy")
        assert array is not None
        assert np.load(io.BytesIO(array.read())).shape == (len(about["times"]), DIM)


def test_the_folder_of_huggingface_names_its_files(made: Path, tmp_path: Path) -> None:
    path = export(workspace(made), tmp_path / "out", layout="huggingface")
    front = (path / "README.md").read_text().split("---\n")[1]
    configs = yaml.safe_load(front)["configs"]
    assert [config["config_name"] for config in configs] == ["video", "text"]
    for config in configs:
        for entry in config["data_files"]:
            (file,) = path.glob(entry["path"])
            table = pq.read_table(file)
            assert set(table["split"].to_pylist()) == {entry["split"]}
    videos = pq.read_table(path / "video")
    assert str(videos.schema.field("features").type) == ("list<element: list<element: halffloat>>")
    counts = dict(zip(videos["id"].to_pylist(), map(len, videos["features"]), strict=True))
    assert (counts[FAILED], counts[ONE_FRAME]) == (0, 1)
    # Also as a release: a folder a configuration.
    request = ImportRequest(
        [path / "video"],
        captions=[path / "text"],
        encoder_id="x",
        release=release_options("huggingface"),
    )
    assert preview_import(workspace(made), request)[0] == f"video: {len(ODD)} of {len(ODD)} in " + (
        "the manifest"
    )


def test_what_cannot_be_written_is_refused(made: Path, tmp_path: Path) -> None:
    space = workspace(made)
    (tmp_path / "there").mkdir()
    with pytest.raises(FeatureFileError, match="there exists; remove it, or give another name"):
        export(space, tmp_path / "there", layout="webdataset")
    with pytest.raises(ConfigError, match="unknown layout 'npz'"):
        export(space, tmp_path / "x", layout="npz")
    with pytest.raises(ConfigError, match="--shard-mib has no effect on the layout hdf5"):
        export(space, tmp_path / "x", shard_mib=3)
    with pytest.raises(ConfigError, match="--shard-mib is 0; it must be at least 1"):
        export(space, tmp_path / "x", layout="webdataset", shard_mib=0)
    path = export(space, tmp_path / "out", layout="webdataset")
    for options in ({"fps": 2.0}, {"pool": "mean"}):
        with pytest.raises(ConfigError, match="import it without --layout and its options"):
            again(made, path, release=release_options("webdataset", **options))
    with pytest.raises(ConfigError, match="import it without --layout"):
        again(made, path, release=release_options("npz-per-item"))
    with pytest.raises(ConfigError, match="import it without --layout"):
        again(made, path, path / "text-00000.tar", release=release_options("webdataset"))
    assert {file.name for file in tmp_path.iterdir()} == {"there", "out"}


def test_an_id_too_long_for_a_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    project = tmp_path / "project"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.stages.test_exports.ODD", ["plain", "same", "SAME", "é" * 126])
        patch.setattr("tests.stages.test_exports.FAILED", "none")
        make_odd_project(project)
    space = workspace(project)
    with pytest.raises(
        FeatureFileError, match=r"takes 25\d bytes .* at most 255; export with --layout hdf5"
    ):
        export(space, tmp_path / "out", layout="npz-per-item")
    assert not list(tmp_path.glob("out*"))
    for layout in ("webdataset", "huggingface"):
        assert again(project, export(space, tmp_path / layout, layout=layout))


@pytest.mark.parametrize("layout", FOLDERS)
def test_an_interrupted_export_leaves_nothing(
    made: Path, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gare_cache.cache.exchange.export_source.np.savez", stop)
    with pytest.raises(KeyboardInterrupt):
        export(workspace(made), tmp_path / "out", layout=layout)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_cache_is_not_exported(tmp_path: Path, layout: str) -> None:
    project = make_odd_project(tmp_path / "project")
    space = workspace(project)
    cache, _ = open_features(space)
    chunk = cache.folder / "features.zarr/video/frames/c/1/0/0"
    content = bytearray(chunk.read_bytes())
    content[5] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CacheError, match="is damaged"):
        export(space, tmp_path / "out", layout=layout)
    assert not list(tmp_path.glob("out*"))


def drop_an_item(path: Path) -> None:
    (path / "video" / f"{ONE_FRAME}.npz").unlink()


def drop_a_row(path: Path) -> None:
    lines = (path / "text.csv").read_text().splitlines(keepends=True)
    (path / "text.csv").write_text("".join(lines[:-1]))


def other_version(path: Path) -> None:
    (path / "gare_cache.json").write_text(
        json.dumps({"format_version": 9, "layout": "huggingface"})
    )


def change_card(path: Path) -> None:
    text = (path / "gare_cache.json").read_text()
    (path / "gare_cache.json").write_text(text.replace("CLIP, mine", "CLIP, yours"))


def drop_a_shard(path: Path) -> None:
    (path / "text-00000.tar").unlink()


def cut_in_a_description(path: Path) -> None:
    with tarfile.open(path / "text-00000.tar") as archive:
        place = archive.getmembers()[1].offset_data
    with (path / "text-00000.tar").open("r+b") as file:
        file.truncate(place + 5)


def drop_a_split(path: Path) -> None:
    next((path / "video").glob("train-*")).unlink()


@pytest.mark.parametrize(
    ("layout", "damage", "message"),
    [
        ("npz-per-item", drop_an_item, r"video.csv, row \d+: no file"),
        ("npz-per-item", drop_a_row, r"holds 35 text items, gare_cache.json says 36"),
        ("huggingface", other_version, "has format 9; this version reads 1: export it again"),
        ("webdataset", change_card, "does not have its digest"),
        ("webdataset", drop_a_shard, r"holds 0 text items, gare_cache.json says 36"),
        ("webdataset", cut_in_a_description, r"text-00000.tar.*unexpected end of data"),
        ("huggingface", drop_a_split, r"video items, gare_cache.json says 18; files are missing"),
    ],
)
def test_an_export_with_something_missing_is_refused(
    made: Path, tmp_path: Path, layout: str, damage: Any, message: str
) -> None:
    path = export(workspace(made), tmp_path / "out", layout=layout)
    damage(path)
    with pytest.raises(FeatureFileError, match=message):
        again(made, path)


@pytest.mark.parametrize("column", ["id", "row", "times", "features"])
def test_a_column_that_is_shorter_than_the_others_is_named(
    made: Path, tmp_path: Path, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(workspace(made), tmp_path / "out", layout="huggingface")
    read = pq.ParquetFile.read_row_group

    def shorter(self: Any, number: int, columns: list[str]) -> Any:
        table = read(self, number, columns=columns)
        return table.slice(1) if columns == [column] else table

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", shorter)
    with pytest.raises(FeatureFileError, match=rf"values of '{column}' for \d rows; .*damaged"):
        again(made, path)


def test_names_are_escaped_reversibly() -> None:
    from urllib.parse import unquote

    ids = [
        *ODD,
        "..",
        "a\\b",
        "tab\t",
        "caf\u00e9",
        "cafe\u0301",
        "%53",
        "S",
        "s",
        "STRASSE",
        "straße",
    ]
    for dots in (True, False):
        names = file_names(ids, dots=dots)
        assert [unquote(name) for name in names] == ids
        assert len({name.casefold() for name in names}) == len(ids)
        assert not any(set(name) & set('/\\:*?"<>|\t') or name.startswith(".") for name in names)
    assert not any("." in name for name in file_names(ids, dots=False))
    assert file_names(["v_a-B@1-2.5", "video7500#0", "日本"]) == [
        "v_a-B@1-2.5",
        "video7500#0",
        "日本",
    ]


def test_by_command(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    out = str(tmp_path / "out")
    code, _, err = run("export-features", out, "--layout", "webdataset", "--shard-mib", "4")
    assert code == 0, err
    assert "export: 54 of 54 in" in err
    code, _, err = run("import-features", out, "-o", str(tmp_path / "o"), "--dry-run")
    assert code == 2  # prepare did not run there
    code, said, err = run("import-features", out, "--dry-run")
    assert code == 0, err
    assert said.startswith(f"video: {len(ODD)} of {len(ODD)} in the manifest")
