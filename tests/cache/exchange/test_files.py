import json
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from gare_cache.cache import schema
from gare_cache.cache.exchange import files as feature_files
from gare_cache.cache.exchange import tables as feature_tables
from gare_cache.cache.exchange.export import export_features
from gare_cache.cache.exchange.files import FeatureFile, feature_file_digest, open_feature_file
from gare_cache.cache.exchange.imports import ImportedUnit, import_unit
from gare_cache.cache.exchange.tables import FeatureTable, find_tables
from gare_cache.cache.journal import RowOutcome
from gare_cache.cache.reader import open_cache
from gare_cache.cache.schema import Layout
from gare_cache.cache.writer import open_writer
from gare_cache.errors import CacheError, FeatureFileError
from tests.cache.made import OWNER

LAYOUT = Layout(max_frames=3, dim=4)
RNG = np.random.default_rng(0)
FRAMES = RNG.standard_normal((5, 3, 4)).astype("<f4")
TEXT = RNG.standard_normal((4, 4)).astype("<f4")
PACKED: dict[str, Any] = {
    "video_ids": ["v0", "a/v1", "v2", "v3", "v4"],
    "frames": FRAMES,
    "num_frames": np.array([3, 2, 3, 1, 3]),
    "times": np.arange(15.0).reshape(5, 3),
    "caption_ids": ["v0#0", "a/v1#0", "v2#0", "v3#0"],
    "text": TEXT,
}
ITEMS: dict[str, Any] = {
    **{f"video/{i}": FRAMES[k, :n] for k, (i, n) in enumerate(zip(
        PACKED["video_ids"], PACKED["num_frames"], strict=True))},
    **{f"times/{i}": PACKED["times"][k, :n] for k, (i, n) in enumerate(zip(
        PACKED["video_ids"], PACKED["num_frames"], strict=True))},
    **{f"text/{i}": TEXT[k] for k, i in enumerate(PACKED["caption_ids"])},
}  # fmt: skip


def write_hdf5(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in arrays.items():
            file[name] = value
    return path


def write_npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    return path


def write_compressed(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez_compressed(path, **{name: np.asarray(value) for name, value in arrays.items()})
    return path


def write_folder(path: Path, arrays: dict[str, Any]) -> Path:
    for name, value in arrays.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == "video_ids":
            target.with_suffix(".txt").write_text("".join(f"{id_}\n" for id_ in value))
        elif name == "caption_ids":
            target.with_suffix(".json").write_text(json.dumps(value))
        else:
            np.save(target.with_name(target.name + ".npy"), np.asarray(value))
    return path


WRITERS = {
    "features.h5": write_hdf5,
    "features.npz": write_npz,
    "compressed.npz": write_compressed,
    "features": write_folder,
}


@pytest.fixture
def opened() -> Any:
    with ExitStack() as stack:
        yield lambda path: stack.enter_context(open_feature_file(path))


def read(table: FeatureTable, positions: list[int], layout: Layout = LAYOUT) -> ImportedUnit:
    places = [(table, position) for position in positions]
    rows = list(range(len(positions)))
    return import_unit(layout, table.kind, rows, places, on_items=lambda _: None)


def expected_frames(order: list[int]) -> Any:
    expected = np.full((len(order), 3, 4), np.nan, "<f2")
    times = np.full((len(order), 3), np.nan, "<f4")
    for row, video in enumerate(order):
        count = PACKED["num_frames"][video]
        expected[row, :count] = FRAMES[video, :count]
        times[row, :count] = PACKED["times"][video, :count]
    return expected, times


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("arrays", [PACKED, ITEMS], ids=["packed", "items"])
def test_every_layout_in_every_container_gives_the_same_rows(
    tmp_path: Path, opened: Any, name: str, arrays: dict[str, Any]
) -> None:
    tables = find_tables(opened(WRITERS[name](tmp_path / name, arrays)))
    video, text = tables["video"], tables["text"]
    assert sorted(video.ids) == sorted(PACKED["video_ids"])
    assert (video.width, video.dim, video.dtypes) == (3, 4, {"float32"})
    order = [2, 0, 3, 1, 4]  # also backwards
    positions = [video.ids.index(PACKED["video_ids"][i]) for i in order]
    found = read(video, positions)
    frames, times = expected_frames(order)
    np.testing.assert_array_equal(found.values["video/frames"], frames)
    np.testing.assert_array_equal(found.values["video/times"], times)
    assert found.values["video/num_frames"].tolist() == PACKED["num_frames"][order].tolist()
    assert all(outcome.reason is None for outcome in found.outcomes)
    positions = [text.ids.index(id_) for id_ in PACKED["caption_ids"]]
    found = read(text, positions)
    np.testing.assert_array_equal(found.values["text/features"], TEXT.astype("<f2"))


def test_frames_without_counts_and_times_are_all_real(tmp_path: Path, opened: Any) -> None:
    arrays = {"video_ids": ["a", "b"], "frames": FRAMES[:2]}
    table = find_tables(opened(write_hdf5(tmp_path / "f.h5", arrays)))["video"]
    found = read(table, [0, 1])
    assert found.values["video/num_frames"].tolist() == [3, 3]
    assert np.isnan(found.values["video/times"]).all()


def test_fixed_length_ids_of_hdf5_are_read(tmp_path: Path, opened: Any) -> None:
    arrays = {"caption_ids": np.array([b"x#0", b"y#0"]), "text": TEXT[:2]}
    table = find_tables(opened(write_hdf5(tmp_path / "f.h5", arrays)))["text"]
    assert table.ids == ["x#0", "y#0"]


def as_bfloat16(values: Any) -> Any:
    """Round float32 to its upper half; numpy stores such arrays as raw 2-byte items."""
    raw = torch.from_numpy(values).bfloat16().view(torch.int16).numpy()
    return raw.view("V2")


@pytest.mark.parametrize("name", ["float16", "float32", "float64", ">f4", "bfloat16"])
@pytest.mark.parametrize("file_name", ["features.h5", "features.npz"])
def test_every_float_type_is_cast_and_the_error_measured(
    tmp_path: Path, opened: Any, name: str, file_name: str
) -> None:
    if name == "bfloat16":
        stored = as_bfloat16(TEXT)
        values = torch.from_numpy(TEXT).bfloat16().double().numpy()
    else:
        stored = TEXT.astype(name)
        values = stored.astype(np.float64)
    arrays = {**PACKED, "text": stored}
    path = WRITERS[file_name](tmp_path / file_name, arrays)
    table = find_tables(opened(path))["text"]
    assert table.dtypes == {np.dtype(name).name if name != "bfloat16" else name}
    found = read(table, [0, 1, 2, 3])
    half = values.astype("<f2")
    np.testing.assert_array_equal(found.values["text/features"], half)
    relative = np.linalg.norm(values - half, axis=1) / np.linalg.norm(values, axis=1)
    assert found.relative_error == pytest.approx(relative.max(), rel=1e-4)
    exact = name in ("float16", "bfloat16")
    assert found.relative_error == 0 if exact else 1e-6 < found.relative_error < 1e-3


def test_hdf5s_own_bfloat16_is_read(tmp_path: Path, opened: Any) -> None:
    kind = h5py.h5t.IEEE_F16LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)
    kind.set_ebias(127)
    values = torch.from_numpy(TEXT).bfloat16().float().numpy()
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["caption_ids"] = PACKED["caption_ids"]
        h5py.h5d.create(file.id, b"text", kind, h5py.h5s.create_simple(TEXT.shape))
        file["text"][...] = values
        assert file["text"].id.get_storage_size() == 2 * TEXT.size
    table = find_tables(opened(tmp_path / "f.h5"))["text"]
    np.testing.assert_array_equal(
        read(table, [0, 1, 2, 3]).values["text/features"], values.astype("<f2")
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: f.__setitem__((1, 1, 2), np.nan), r"frame 1 of 3 holds NaN or infinity in f.h5"),
        (lambda f: f.__setitem__((1, 2, 0), -np.inf), r"frame 2 of 3 holds NaN or infinity"),
        (
            lambda f: f.__setitem__((1, 0, 0), 70000.0),
            r"frame 0 of 3 exceeds float16's largest value, 65,504",
        ),
        (lambda f: f.__setitem__((1, 2), 0.0), r"frame 2 of 3 is zero in float16"),
        (lambda f: f.__setitem__((1, 2), 1e-9), r"frame 2 of 3 is zero in float16"),
    ],
)
def test_a_faulty_vector_fails_its_video_and_no_other(
    tmp_path: Path, opened: Any, change: Any, reason: str
) -> None:
    frames = FRAMES.copy()
    change(frames)
    path = write_hdf5(tmp_path / "f.h5", {**PACKED, "frames": frames, "num_frames": [3] * 5})
    found = read(find_tables(opened(path))["video"], [0, 1, 2])
    assert [outcome.reason is None for outcome in found.outcomes] == [True, False, True]
    assert reason in str(found.outcomes[1].reason)
    assert found.values["video/num_frames"].tolist() == [3, 0, 3]
    assert np.isnan(found.values["video/frames"][1]).all()
    assert np.isnan(found.values["video/times"][1]).all()
    np.testing.assert_array_equal(found.values["video/frames"][2], frames[2].astype("<f2"))
    assert found.relative_error < 1e-3


def test_what_lies_behind_the_last_frame_does_not_matter(tmp_path: Path, opened: Any) -> None:
    frames = FRAMES.copy()
    frames[1, 2] = np.nan
    table = find_tables(opened(write_hdf5(tmp_path / "f.h5", {**PACKED, "frames": frames})))
    assert read(table["video"], [1]).outcomes == [RowOutcome(0)]


def test_videos_without_frames_and_faulty_captions_fail(tmp_path: Path, opened: Any) -> None:
    text = TEXT.copy()
    text[1, 3] = np.inf
    arrays = {**PACKED, "num_frames": [3, 0, 1, 1, 1], "text": text}
    tables = find_tables(opened(write_hdf5(tmp_path / "f.h5", arrays)))
    assert read(tables["video"], [0, 1]).outcomes[1].reason == "no frames in f.h5"
    found = read(tables["text"], [0, 1])
    assert found.outcomes[1].reason == "its feature holds NaN or infinity in f.h5"
    assert np.isnan(found.values["text/features"][1]).all()
    items = {"video/a": np.empty((0, 4), "<f4"), "video/b": FRAMES[0]}
    table = find_tables(opened(write_hdf5(tmp_path / "items.h5", items)))["video"]
    assert read(table, [0, 1]).outcomes[0].reason == "no frames in items.h5"


FAULTS = {
    "unequal lengths of videos": (
        {**PACKED, "video_ids": ["a", "b"]},
        r"video_ids holds 2 ids, frames 5 rows",
    ),
    "unequal lengths of captions": (
        {**PACKED, "caption_ids": ["a"]},
        r"caption_ids holds 1 id, text 4 rows",
    ),
    "unequal counts": (
        {**PACKED, "num_frames": [1, 2]},
        r"num_frames is int64 of shape \(2,\); integers of shape \(5,\) are needed",
    ),
    "fractional counts": (
        {**PACKED, "num_frames": np.ones(5)},
        r"num_frames is float64 of shape \(5,\); integers",
    ),
    "too large counts": (
        {**PACKED, "num_frames": [1, 2, 3, 4, 0]},
        r"num_frames ranges from 0 to 4, but frames has room for 0 to 3",
    ),
    "negative counts": ({**PACKED, "num_frames": [1, 2, 3, 3, -1]}, r"ranges from -1 to 3"),
    "times of another shape": (
        {**PACKED, "times": np.zeros((5, 2))},
        r"'times' is float64 of shape \(5, 2\); seconds of shape \(5, 3\) are needed",
    ),
    "times of an item": (
        {**ITEMS, "times/v2": np.zeros(1)},
        r"'times/v2' is float64 of shape \(1,\); seconds of shape \(3,\) are needed",
    ),
    "duplicates": (
        {**PACKED, "video_ids": ["a", "b", "a", "c", "b"]},
        r"2 video_ids occur more than once: a, b",
    ),
    "no ids": (
        {name: value for name, value in PACKED.items() if name != "caption_ids"},
        r"holds 'text' without 'caption_ids'",
    ),
    "ids that are numbers": (
        {**PACKED, "caption_ids": np.arange(4)},
        r"caption_ids must be a list of strings, not int64 of shape \(4,\)",
    ),
    "one vector a video": (
        {**PACKED, "frames": FRAMES[:, 0]},
        r"'frames' has shape \(5, 4\); \(N, F, D\) is needed, with a first axis of 1",
    ),
    "rank of an item": (
        {**ITEMS, "video/v2": FRAMES[0, 0]},
        r"'video/v2' has shape \(4,\); \(F, D\) is needed",
    ),
    "rank of a caption": ({**ITEMS, "text/x": FRAMES[0]}, r"\(3, 4\); \(D,\) is needed"),
    "widths": (
        {**ITEMS, "video/v3": FRAMES[0, :, :2]},
        r"'video/v3' has width 2, but 'video/a/v1' has 4",
    ),
    "no width": ({**PACKED, "text": np.empty((4, 0))}, r"shape \(4, 0\): width 0"),
    "whole numbers": (
        {**PACKED, "text": np.ones((4, 4), np.int64)},
        r"'text' holds int64; features are float16, bfloat16, float32 or float64",
    ),
    "both layouts": (
        {**PACKED, "video/v9": FRAMES[0]},
        r"holds video features twice: as 'frames' and as 'video/v9'",
    ),
    "nothing known": (
        {"image": FRAMES},
        r"holds no features: neither video/<video_id> nor frames.* \(found: image\)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_layouts_are_refused(tmp_path: Path, opened: Any, fault: str) -> None:
    arrays, message = FAULTS[fault]
    with pytest.raises(FeatureFileError, match=message):
        find_tables(opened(write_hdf5(tmp_path / "f.h5", arrays)))


def test_pickles_are_refused_in_every_container(tmp_path: Path, opened: Any) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    np.savez(tmp_path / "f.npz", frames=objects)
    folder = write_folder(tmp_path / "folder", PACKED)
    np.save(folder / "text.npy", objects)
    for path in (tmp_path / "f.npz", folder):
        with pytest.raises(FeatureFileError, match=r"holds pickled Python objects, .*never loaded"):
            opened(path)
    objects.dump(folder / "text.npy")
    with pytest.raises(FeatureFileError, match=r"text.npy is not an npy array .*a pickle is never"):
        opened(folder)


def test_files_that_are_no_feature_files(tmp_path: Path, opened: Any) -> None:
    with pytest.raises(FeatureFileError, match=r"gone.h5 does not exist"):
        opened(tmp_path / "gone.h5")
    (tmp_path / "text.h5").write_text("not HDF5 at all")
    with pytest.raises(
        FeatureFileError, match=r"text.h5 is neither an HDF5 file, nor an npz archive, nor"
    ):
        opened(tmp_path / "text.h5")
    np.save(tmp_path / "frames.npy", FRAMES)
    with pytest.raises(
        FeatureFileError, match=r"frames.npy is neither .*; give the folder that holds"
    ):
        opened(tmp_path / "frames.npy")
    whole = write_hdf5(tmp_path / "whole.h5", PACKED).read_bytes()
    (tmp_path / "half.h5").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatureFileError, match=r"half.h5 cannot be opened as HDF5 .*damaged"):
        opened(tmp_path / "half.h5")


def test_damaged_contents_are_named(tmp_path: Path, opened: Any) -> None:
    folder = write_folder(tmp_path / "folder", PACKED)
    content = (folder / "text.npy").read_bytes()
    (folder / "text.npy").write_bytes(content[:-8])
    with pytest.raises(FeatureFileError, match=r"announces an array of shape \(4, 4\), 64 bytes"):
        opened(folder)
    (folder / "text.npy").write_bytes(content)
    (folder / "caption_ids.txt").write_text("a\n")
    with pytest.raises(FeatureFileError, match=r"holds caption_ids twice, as txt and as json"):
        opened(folder)
    (folder / "caption_ids.txt").unlink()
    (folder / "caption_ids.json").write_text('{"a": 1}')
    with pytest.raises(FeatureFileError, match=r"caption_ids.json must be a JSON list of strings"):
        opened(folder)
    (folder / "caption_ids.json").write_text("[")
    with pytest.raises(FeatureFileError, match=r"caption_ids.json cannot be read"):
        opened(folder)
    (folder / "caption_ids.json").write_text('["a", "b", "c", "d"]')
    np.save(folder / "caption_ids.npy", np.array(["a", "b", "c", "d"]))
    with pytest.raises(FeatureFileError, match=r"holds caption_ids twice, as text and as array"):
        find_tables(opened(folder))


@pytest.mark.parametrize("rows", [4, 2000])
def test_a_flipped_bit_in_an_archive_is_found(tmp_path: Path, opened: Any, rows: int) -> None:
    text = np.tile(TEXT, (rows // 4, 1))
    arrays = {"caption_ids": [f"c{i}" for i in range(rows)], "text": text}
    path = write_npz(tmp_path / "f.npz", arrays)
    raw = bytearray(path.read_bytes())
    raw[raw.rfind(TEXT.tobytes()) + 5] ^= 1
    path.write_bytes(raw)
    with pytest.raises(FeatureFileError, match=r"text.* cannot be read \(Bad CRC-32"):
        read(find_tables(opened(path))["text"], [*range(rows)])


def test_an_npz_in_fortran_order_is_refused(tmp_path: Path, opened: Any) -> None:
    arrays = {**PACKED, "text": np.asfortranarray(TEXT)}
    with pytest.raises(FeatureFileError, match=r"text.npy is in Fortran order"):
        opened(write_npz(tmp_path / "f.npz", arrays))
    table = find_tables(opened(write_folder(tmp_path / "folder", arrays)))["text"]
    np.testing.assert_array_equal(read(table, [1]).values["text/features"], TEXT[[1]].astype("<f2"))


def test_a_member_that_is_no_array_is_left_alone(tmp_path: Path, opened: Any) -> None:
    path = write_npz(tmp_path / "f.npz", PACKED)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "how this was made")
    assert set(find_tables(opened(path))) == {"video", "text"}
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("text.npy", "again")
    with pytest.raises(FeatureFileError, match=r"f.npz holds two arrays of the same name"):
        opened(path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_large_array_is_read_some_rows_at_a_time_and_once(
    tmp_path: Path, opened: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    row_bytes = FRAMES[0].nbytes
    monkeypatch.setattr(feature_tables, "_BLOCK_BYTES", 10 * row_bytes)
    arrays = {"video_ids": [f"v{i}" for i in range(95)], "frames": np.tile(FRAMES, (19, 1, 1))}
    asked: list[tuple[int, int]] = []
    original = FeatureFile.rows

    def counted(self: FeatureFile, array: str, start: int, stop: int) -> Any:
        if array == "frames":
            asked.append((start, stop))
        return original(self, array, start, stop)

    monkeypatch.setattr(FeatureFile, "rows", counted)
    table = find_tables(opened(WRITERS[name](tmp_path / name, arrays)))["video"]
    assert asked == []
    wanted = [*range(40), *range(50, 95)]
    found = read(table, wanted)
    assert max(stop - start for start, stop in asked) == 10
    assert [row for start, stop in asked for row in range(start, stop)] == wanted
    np.testing.assert_array_equal(
        found.values["video/frames"], arrays["frames"][wanted].astype("<f2")
    )


def test_rows_of_a_compressed_archive_are_unpacked_in_one_pass(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_compressed(tmp_path / "f.npz", PACKED)
    table = find_tables(opened(path))["text"]
    opens: list[str] = []
    original = zipfile.ZipFile.open

    def counted(self: zipfile.ZipFile, name: Any, *args: Any, **kwargs: Any) -> Any:
        opens.append(str(name))
        return original(self, name, *args, **kwargs)

    monkeypatch.setattr(zipfile.ZipFile, "open", counted)
    monkeypatch.setattr(feature_tables, "_BLOCK_BYTES", 1)
    read(table, [0, 1, 2, 3])
    assert opens.count("text.npy") <= 1


def test_the_digest_follows_content_not_place(tmp_path: Path) -> None:
    one = write_folder(tmp_path / "one", PACKED)
    two = write_folder(tmp_path / "two", PACKED)
    assert feature_file_digest(one) == feature_file_digest(two)
    np.save(two / "text.npy", TEXT + 1)
    assert feature_file_digest(one) != feature_file_digest(two)
    path = write_npz(tmp_path / "f.npz", PACKED)
    assert feature_file_digest(path) == feature_files.file_digest(path)


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of several units with a failed video and a failed caption."""
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 4})
    with open_writer(
        tmp_path / "cache",
        dataset="d",
        identity={"encoder": {"weights": "abc"}, "sampling": {}},
        layout=LAYOUT,
        head_start={"logit_scale": torch.tensor(4.5), "text.x": torch.arange(6.0).view(2, 3)},
        owner=OWNER,
    ) as cache:
        no_file = dict.fromkeys(["path", "start_seconds", "end_seconds", "size_bytes", "mtime_ns"])
        videos = [{"video_id": f"v{i}", **no_file} for i in range(10)]
        captions = [{"caption_id": f"v{i}#0", "caption": f"sentence {i}"} for i in range(9)]
        for kind, sources in (("video", videos), ("text", captions)):
            rows = cache.allocate(kind, sources)  # type: ignore[arg-type]
            for unit in cache.pending(kind, rows):  # type: ignore[arg-type]
                values = {s.name: s.empty(len(unit.rows)) for s in LAYOUT.arrays(unit.kind)}
                outcomes = [RowOutcome(r, reason="bad" if r == 2 else None) for r in unit.rows]
                for place, row in enumerate(unit.rows):
                    if row != 2:
                        _fill(values, place, row)
                cache.commit(unit, values, outcomes, thumbnails={}, seconds={})
    return tmp_path / "cache"


def _fill(values: dict[str, Any], place: int, row: int) -> None:
    if "text/features" in values:
        values["text/features"][place] = TEXT[row % 4] * (row + 1)
        return
    count = 1 + row % 3
    values["video/frames"][place, :count] = FRAMES[row % 5, :count] * (row + 1)
    values["video/times"][place, :count] = np.arange(count) / 3
    values["video/num_frames"][place] = count


def listed(ids: dict[Any, list[str]]) -> dict[Any, list[dict[str, Any]]]:
    """Return rows of a manifest."""
    names = {"video": "video_id", "text": "caption_id"}
    return {kind: [{names[kind]: id_} for id_ in held] for kind, held in ids.items()}


def test_an_export_holds_the_caches_bits_ids_and_identities(
    cache_folder: Path, tmp_path: Path
) -> None:
    cache = open_cache(cache_folder)
    ids: dict[Any, list[str]] = {
        "video": ["v9", *(f"v{i}" for i in range(9))],
        "text": [f"v{i}#0" for i in range(9)],
    }
    done: list[int] = []
    export_features(cache, tmp_path / "f.h5", listed(ids), on_items=done.append)
    assert sum(done) == 19
    assert max(done) == 4
    videos = cache.videos([f"v{i}" for i in range(10)])
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["video_ids"].asstr()[:].tolist() == [f"v{i}" for i in range(10)]
        assert file["frames"][:].tobytes() == videos.frames.tobytes()
        assert file["times"][:].tobytes() == videos.times.tobytes()
        assert file["num_frames"][:].tolist() == videos.num_frames.tolist()
        assert file["text"][:].tobytes() == cache.captions(ids["text"]).tobytes()
        assert file.attrs["encoder_id"] == cache.encoder_id
        assert file.attrs["extraction_id"] == cache.extraction_id
        assert file.attrs["content_digest"] == cache.content_digest
        assert json.loads(file.attrs["encoder_identity"]) == {"weights": "abc"}
        assert file["encoder_init/logit_scale"][()] == np.float32(4.5)
        assert file["encoder_init/text.x"][:].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_part_of_a_cache_is_exported(cache_folder: Path, tmp_path: Path) -> None:
    cache = open_cache(cache_folder)
    ids: dict[Any, list[str]] = {"video": ["v8", "v1", "v5"], "text": []}
    export_features(cache, tmp_path / "f.h5", listed(ids), on_items=lambda _: None)
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["video_ids"].asstr()[:].tolist() == ["v1", "v5", "v8"]
        np.testing.assert_array_equal(file["frames"][:], cache.videos(["v1", "v5", "v8"]).frames)
        assert file["caption_ids"].shape == (0,)
        assert file["text"].shape == (0, 4)


def test_an_export_replaces_nothing_and_leaves_no_half_file(
    cache_folder: Path, tmp_path: Path
) -> None:
    cache = open_cache(cache_folder)
    ids: dict[Any, list[str]] = {"video": ["v0", "v77"], "text": []}
    with pytest.raises(CacheError, match=r"1 of 2 video rows are not in .*'v77'"):
        export_features(cache, tmp_path / "f.h5", listed(ids), on_items=lambda _: None)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    ids["video"] = ["v0"]
    with pytest.raises(KeyboardInterrupt):
        export_features(cache, tmp_path / "f.h5", listed(ids), on_items=stop)
    assert list(tmp_path.glob("f.h5*")) == []
    (tmp_path / "f.h5").write_text("mine")
    with pytest.raises(FeatureFileError, match=r"f.h5 exists; remove it, or give another name"):
        export_features(cache, tmp_path / "f.h5", listed(ids), on_items=lambda _: None)
    assert (tmp_path / "f.h5").read_text() == "mine"
