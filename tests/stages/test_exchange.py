import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file

from gare_cache.cache import journal, schema
from gare_cache.cache.exchange.files import FeatureFile
from gare_cache.cache.loading import load_cache
from gare_cache.errors import (
    AnnotationError,
    CacheError,
    ConfigError,
    FeatureFileError,
    FingerprintMismatch,
)
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.exchange import export, import_features
from gare_cache.stages.extract import extract
from gare_cache.stages.import_request import ImportRequest
from gare_cache.stages.info import describe
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from tests.cache.exchange.test_files import WRITERS, write_hdf5
from tests.test_cli import run
from tests.tiny import SPLIT_SIZES, change_params, tiny_params, workspace, write_params

VIDEOS = [f"{split}{i}" for split, count in SPLIT_SIZES.items() for i in range(count)]
CAPTIONS = [f"{video}#{k}" for video in VIDEOS for k in range(2)]
NAME = "CLIP4Clip ViT-B/32, epoch 5"
DIM = 8


@pytest.fixture(autouse=True)
def _small_units_beside_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A prepared project whose videos are elsewhere: captions and settings, no video file."""
    return make_project(tmp_path / "project")


def make_project(folder: Path) -> Path:
    folder.mkdir()
    rows = [(v, f"sentence {k} about {v}", v.rstrip("0123456789")) for v in VIDEOS for k in "ab"]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("video", "caption", "split"), *rows])
    values = tiny_params(Path("unused"))
    del values["encoder"], values["extract"]
    values["dataset"]["video_roots"] = []
    values["head"]["aggregator"]["init"] = "random"
    write_params(folder, values)
    prepare(workspace(folder))
    return folder


def features(**changes: Any) -> dict[str, Any]:
    """Give features in the packed layout: captions near their video's frames, 2 to 5 frames."""
    generator = np.random.default_rng(0)
    frames = generator.standard_normal((len(VIDEOS), 5, DIM))
    text = frames.mean(axis=1).repeat(2, axis=0) + 0.5 * generator.standard_normal((28, DIM))
    arrays = {
        "video_ids": VIDEOS,
        "frames": frames.astype("<f4"),
        "num_frames": 2 + np.arange(len(VIDEOS)) % 4,
        "times": np.arange(5.0)[None].repeat(len(VIDEOS), axis=0),
        "caption_ids": CAPTIONS,
        "text": text.astype("<f4"),
    }
    return {name: v for name, v in {**arrays, **changes}.items() if v is not None}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_hdf5(tmp_path / "features.h5", features())


def bring(project: Path, *sources: Path, encoder_id: str | None = NAME, **flags: Any) -> Any:
    return import_features(
        workspace(project), ImportRequest(sources, encoder_id=encoder_id, **flags)
    )


def arrays(project: Path, folder: str) -> dict[str, bytes]:
    group = zarr.open_group(project / "cache" / folder / "features.zarr", mode="r")
    names = ("video/frames", "video/times", "video/num_frames", "text/features")
    return {name: np.asarray(group[name][:]).tobytes() for name in names}


def all_files(project: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in project.rglob("*") if p.is_file() and p.name != "lock"}


def test_from_a_file_to_the_report_without_any_video(
    project: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = workspace(project)
    written = bring(project, source)
    assert written["videos"] == {"encoded": 14, "failed": 0, "missing": 0}
    assert written["captions"] == {"encoded": 28, "failed": 0, "missing": 0}
    assert (written["dim"], written["max_frames"]) == (DIM, 5)
    assert "video features were float32; the largest relative error" in capsys.readouterr().err
    cache, _ = open_features(space)
    found = cache.videos(["val1", "train2"])
    places = [VIDEOS.index("val1"), VIDEOS.index("train2")]
    expected = features()
    assert found.num_frames.tolist() == expected["num_frames"][places].tolist()
    for row, (place, count) in enumerate(zip(places, found.num_frames, strict=True)):
        half = expected["frames"][place, :count].astype("<f2")
        np.testing.assert_array_equal(found.frames[row, :count], half)
        assert np.isnan(found.frames[row, count:]).all()
        assert found.times[row, :count].tolist() == list(range(count))
    half = expected["text"][[CAPTIONS.index("test2#1")]].astype("<f2")
    np.testing.assert_array_equal(cache.captions(["test2#1"]), half)
    assert cache.attributes["identity"]["encoder"] == {"declared": NAME, "dim": DIM}

    record = train(space)
    metrics = evaluate(space)
    report(space)
    assert record["encoder_id"] == cache.encoder_id
    assert metrics["coverage"] == "3 of 3 test videos, 6 of 6 captions"
    page = (space.report / "report.html").read_text()
    assert f"{NAME}, features imported" in page
    assert "of up to 5 cached, as imported" in page
    assert dict(describe(space))["test videos"].startswith("3 of 3")


@pytest.mark.parametrize("name", WRITERS)
def test_every_container_makes_the_same_cache(project: Path, tmp_path: Path, name: str) -> None:
    expected = arrays(project, bring(project, write_hdf5(tmp_path / "a.h5", features()))["folder"])
    written = bring(project, WRITERS[name](tmp_path / name, features()))
    assert arrays(project, written["folder"]) == expected


def test_videos_and_captions_from_different_files(project: Path, tmp_path: Path) -> None:
    both = features()
    video, text = dict(both), {name: both.pop(name) for name in ("caption_ids", "text")}
    for name in text:
        del video[name]
    train_part = {name: value[:8] for name, value in video.items()}
    rest = {name: value[8:] for name, value in video.items()}
    paths = [
        write_hdf5(tmp_path / "train.h5", train_part),
        WRITERS["features.npz"](tmp_path / "rest.npz", rest),
        WRITERS["features"](tmp_path / "text", text),
    ]
    written = bring(project, *paths)
    whole = bring(project, write_hdf5(tmp_path / "whole.h5", features()))
    assert arrays(project, written["folder"]) == arrays(project, whole["folder"])
    with pytest.raises(FeatureFileError, match=r"no text features in .*train.h5; name all files"):
        bring(project, paths[0])
    with pytest.raises(
        FeatureFileError, match=r"8 video_ids are both in .*train.h5 and in .*whole"
    ):
        bring(project, paths[0], tmp_path / "whole.h5")
    other = write_hdf5(tmp_path / "other.h5", {**text, "text": np.ones((28, 4))})
    with pytest.raises(
        FeatureFileError,
        match=r"caption .* of .*other.h5 has width 4, video .* 8; .*import those of CLIP alone",
    ):
        bring(project, paths[0], other)


def test_an_imported_cache_says_itself_what_belongs_to_which_split(
    project: Path, source: Path
) -> None:
    folder = project / "cache" / bring(project, source)["folder"]
    cache = load_cache(folder)
    assert {name: len(split.video_ids) for name, split in cache.splits.items()} == {
        "train": 8,
        "val": 3,
        "test": 3,
    }


def test_a_second_import_changes_nothing(
    project: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(project, source)
    before = all_files(project)
    capsys.readouterr()
    bring(project, source)
    assert all_files(project) == before
    assert "relative error" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [1, 3, 5])
def test_an_interrupted_import_goes_on_behind_its_last_unit(
    project: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    whole = bring(project, source)
    expected = arrays(project, whole["folder"])
    (project / "cache").rename(tmp_path / "undisturbed")
    workspace(project).features.unlink()
    append, calls = journal.append, []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return append(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            bring(project, source)
    assert not workspace(project).features.exists()
    reads = _count_reads(monkeypatch)
    assert bring(project, source) == whole
    assert arrays(project, whole["folder"]) == expected
    video_rows = sum(stop - start for name, start, stop in reads if name == "frames")
    assert video_rows == max(0, 14 - 4 * (number - 1))


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    reads: list[tuple[str, int, int]] = []
    rows = FeatureFile.rows

    def counted(self: FeatureFile, name: str, start: int, stop: int) -> Any:
        reads.append((name, start, stop))
        return rows(self, name, start, stop)

    monkeypatch.setattr(FeatureFile, "rows", counted)
    return reads


def test_features_are_read_unit_by_unit(
    project: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _count_reads(monkeypatch)
    bring(project, source)
    assert [(a, b) for name, a, b in reads if name == "frames"] == [
        (0, 4),
        (4, 8),
        (8, 12),
        (12, 14),
    ]
    assert max(b - a for name, a, b in reads if name == "text") == 8


def test_the_round_trip_is_exact_and_heads_fit_both(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = features()
    faulty["frames"][VIDEOS.index("test1"), 0, 0] = np.nan
    faulty["text"][CAPTIONS.index("test2#0"), 0] = np.inf
    first = bring(project, write_hdf5(tmp_path / "faulty.h5", faulty), logit_scale=3.25)
    space = workspace(project)
    train(space)
    metrics = evaluate(space)
    similarity = np.load(space.evaluation / "similarity.npy")
    assert metrics["coverage"] == "2 of 3 test videos, 3 of 6 captions"
    path = export(space, tmp_path / "export.h5")

    capsys.readouterr()
    second = bring(project, path, encoder_id=None)
    assert "float16; the largest relative error of a vector in float16 is 0.0e+00" in (
        capsys.readouterr().err
    )
    assert second["folder"] != first["folder"]
    assert second["encoder_id"] == first["encoder_id"]
    assert second["videos"] == first["videos"] == {"encoded": 13, "failed": 1, "missing": 0}
    assert second["captions"] == first["captions"] == {"encoded": 27, "failed": 1, "missing": 0}
    assert arrays(project, second["folder"]) == arrays(project, first["folder"])
    starts = [load_file(p) for p in sorted(project.glob("cache/*/encoder_init.safetensors"))]
    assert [start["logit_scale"] for start in starts] == [torch.tensor(3.25)] * 2
    assert evaluate(space) == metrics
    np.testing.assert_array_equal(np.load(space.evaluation / "similarity.npy"), similarity)

    again = export(space, tmp_path / "again.h5")
    with h5py.File(path) as one, h5py.File(again) as two:
        for name in ("video_ids", "caption_ids", "frames", "times", "num_frames", "text"):
            assert one[name].dtype == two[name].dtype
            np.testing.assert_array_equal(one[name][:], two[name][:], err_msg=name)


def test_an_extracted_cache_goes_out_and_in(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tiny import make_project as make_video_project

    project = make_video_project(tmp_path / "videos", tiny_encoder_dir)
    space = workspace(project)
    prepare(space)
    first = extract(space)
    train(space)
    metrics = evaluate(space)
    path = export(space, tmp_path / "export.h5")
    # Elsewhere, without the videos and the encoder; the head starts from the same text tower.
    change_params(project, dataset__video_roots=[], encoder=None)
    (project / "videos").rename(tmp_path / "gone")
    space = workspace(project)
    prepare(space)
    second = bring(project, path, encoder_id=None)
    assert second["encoder_id"] == first["encoder_id"]
    assert arrays(project, second["folder"]) == arrays(project, first["folder"])
    assert evaluate(space)["methods"] == metrics["methods"]
    starts = [load_file(p) for p in project.glob("cache/*/encoder_init.safetensors")]
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    head = (space.run / "head.safetensors").read_bytes()
    train(space)
    assert load_file(space.run / "head.safetensors").keys() == _tensors(tmp_path, head).keys()


def _tensors(folder: Path, content: bytes) -> dict[str, torch.Tensor]:
    (folder / "head.safetensors").write_bytes(content)
    return load_file(folder / "head.safetensors")


def test_one_split_is_exported(project: Path, source: Path, tmp_path: Path) -> None:
    bring(project, source)
    space = workspace(project)
    with h5py.File(export(space, tmp_path / "test.h5", ["test"])) as file:
        assert file["video_ids"].asstr()[:].tolist() == ["test0", "test1", "test2"]
        assert file["caption_ids"].asstr()[:].tolist() == CAPTIONS[-6:]
    with h5py.File(export(space, tmp_path / "two.h5", ["test", "val"])) as file:
        assert len(file["video_ids"]) == 6
    with pytest.raises(ConfigError, match=r"unknown split 'tset'; did you mean 'test'"):
        export(space, tmp_path / "x.h5", ["tset"])
    with pytest.raises(FeatureFileError, match=r"test.h5 exists"):
        export(space, tmp_path / "test.h5")


def test_the_declared_encoder_binds_the_head(project: Path, source: Path) -> None:
    first = bring(project, source)
    train(workspace(project))
    second = bring(project, source, encoder_id="another encoder")
    assert second["encoder_id"] != first["encoder_id"]
    assert second["folder"] != first["folder"]
    with pytest.raises(FingerprintMismatch, match="the head was trained on encoder"):
        evaluate(workspace(project))
    with pytest.raises(ConfigError, match=r"features.h5 does not say which encoder .*--encoder-id"):
        bring(project, source, encoder_id=None)
    with pytest.raises(ConfigError, match=r"--encoder-id is empty"):
        bring(project, source, encoder_id=" ")


def test_other_content_goes_into_another_folder(project: Path, source: Path) -> None:
    first = bring(project, source)
    frozen = arrays(project, first["folder"])
    with h5py.File(source, "a") as file:
        file["text"][0, 0] += 1
    second = bring(project, source)
    assert second["folder"] != first["folder"]
    assert second["encoder_id"] == first["encoder_id"]
    assert arrays(project, first["folder"]) == frozen


def test_identities_in_files_must_agree(project: Path, source: Path, tmp_path: Path) -> None:
    bring(project, source)
    one = export(workspace(project), tmp_path / "one.h5", ["train"])
    two = export(workspace(project), tmp_path / "two.h5", ["val", "test"])
    assert bring(project, one, two, encoder_id=None)["videos"]["encoded"] == 14
    with h5py.File(two, "a") as file:
        file.attrs["encoder_identity"] = json.dumps({"declared": "other"})
    with pytest.raises(FeatureFileError, match=r"one.h5 and another file come from different"):
        bring(project, one, two, encoder_id=None)
    for path in (one, two):
        with h5py.File(path, "a") as file:
            file.attrs["encoder_identity"] = "{"
    with pytest.raises(
        FeatureFileError, match=r"one.h5: attribute 'encoder_identity' is not valid JSON"
    ):
        bring(project, one, two, encoder_id=None)


def test_the_logit_scale(project: Path, source: Path) -> None:
    def scale(written: dict[str, Any]) -> float:
        start = load_file(project / "cache" / written["folder"] / "encoder_init.safetensors")
        assert list(start) == ["logit_scale"]
        return float(start["logit_scale"])

    first = bring(project, source)
    assert scale(first) == pytest.approx(np.log(100))
    second = bring(project, source, logit_scale=2.0)
    assert second["folder"] != first["folder"]
    assert scale(second) == 2.0
    with pytest.raises(ConfigError, match=r"--logit-scale is nan; it must be a finite logarithm"):
        bring(project, source, logit_scale=float("nan"))


def test_the_transformer_cannot_start_from_a_declared_encoder(project: Path, source: Path) -> None:
    bring(project, source)
    change_params(project, head__aggregator__init="encoder")
    with pytest.raises(ConfigError, match=r"set head.aggregator.init: random"):
        train(workspace(project))


def test_frames_of_a_row(project: Path, source: Path) -> None:
    assert bring(project, source, max_frames=7)["max_frames"] == 7
    with pytest.raises(
        ConfigError,
        match=r"6 videos of .* have more than 3 frames, the longest 5 \(first: 'train2'\)",
    ):
        bring(project, source, max_frames=3)


def test_items_of_different_length_take_the_longest(project: Path, tmp_path: Path) -> None:
    packed = features()
    items = {f"text/{id_}": packed["text"][i] for i, id_ in enumerate(CAPTIONS)}
    for i, id_ in enumerate(VIDEOS):
        items[f"video/{id_}"] = packed["frames"][i, : packed["num_frames"][i]]
    written = bring(project, write_hdf5(tmp_path / "items.h5", items))
    assert written["max_frames"] == 5
    cache, _ = open_features(workspace(project))
    assert cache.videos(VIDEOS).num_frames.tolist() == packed["num_frames"].tolist()


def test_unknown_ids(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = features(
        video_ids=["stranger", *VIDEOS[1:]], caption_ids=[*CAPTIONS[:-1], "stranger#0"]
    )
    path = write_hdf5(tmp_path / "extra.h5", extra)
    with pytest.raises(
        FeatureFileError,
        match=r"1 of 14 video_ids are not in the manifest: stranger; add .*--ignore-unknown",
    ):
        bring(project, path)
    assert not (project / "cache").exists()
    written = bring(project, path, ignore_unknown=True)
    assert written["videos"] == {"encoded": 13, "failed": 0, "missing": 1}
    assert written["captions"] == {"encoded": 27, "failed": 0, "missing": 1}
    said = capsys.readouterr().err
    assert "1 video_ids are not in the manifest and left out: stranger" in said
    assert "warning: 1 of 14 video_ids of the manifest have no features: train0;" in said
    assert "warning: 1 of 28 caption_ids of the manifest have no features: test2#1;" in said
    none = features(video_ids=[f"video{i}" for i in range(14)])
    with pytest.raises(
        FeatureFileError,
        match=r"none of the 14 video_ids is in the manifest: .* 'video0', the manifest 'train0'",
    ):
        bring(project, write_hdf5(tmp_path / "none.h5", none), ignore_unknown=True)


def test_missing_items_are_counted_through_to_the_scores(project: Path, tmp_path: Path) -> None:
    keep = [i for i, id_ in enumerate(VIDEOS) if id_ not in ("test1", "val0")]
    keep_text = [i for i, id_ in enumerate(CAPTIONS) if id_ not in ("val1#0", "val1#1", "test0#1")]
    whole = features()
    part = {name: np.asarray(whole[name])[keep] for name in ("frames", "num_frames")}
    part |= {"video_ids": [VIDEOS[i] for i in keep], "text": whole["text"][keep_text]}
    part |= {"caption_ids": [CAPTIONS[i] for i in keep_text]}
    written = bring(project, write_hdf5(tmp_path / "part.h5", part))
    assert written["videos"] == {"encoded": 12, "failed": 0, "missing": 2}
    assert written["captions"] == {"encoded": 25, "failed": 0, "missing": 3}
    space = workspace(project)
    record = train(space)  # val1 has no caption: it is found or not, and asks nothing
    assert record["coverage"]["val"] == "2 of 3 val videos, 2 of 6 captions"
    metrics = evaluate(space)
    assert metrics["coverage"] == "2 of 3 test videos, 3 of 6 captions"
    assert report(space)
    with h5py.File(export(space, tmp_path / "export.h5")) as file:
        assert len(file["video_ids"]) == 12
    # A video file that the features lack is no reason to ask for an extraction.
    (project / "videos").mkdir()
    for name in VIDEOS:
        (project / "videos" / f"{name}.mp4").write_bytes(b"not read")
    change_params(project, dataset__video_roots=["videos"])
    prepare(workspace(project))
    assert evaluate(workspace(project))["coverage"] == metrics["coverage"]


def test_failed_items_are_recorded_and_masked(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = features()
    faulty["frames"][VIDEOS.index("test1"), 1, 3] = np.nan
    faulty["frames"][VIDEOS.index("train4")] = 0
    faulty["text"][CAPTIONS.index("test0#0"), 0] = 1e6
    written = bring(project, write_hdf5(tmp_path / "f.h5", faulty))
    assert written["videos"] == {"encoded": 12, "failed": 2, "missing": 0}
    assert written["captions"] == {"encoded": 27, "failed": 1, "missing": 0}
    said = capsys.readouterr().err
    assert "warning: 2 video_ids cannot be used (first: 'train4', frame 0 of 2 is zero" in said
    assert "1 caption_ids cannot be used (first: 'test0#0', its feature exceeds float16" in said
    cache, _ = open_features(workspace(project))
    assert cache.failures()["test1"] == "frame 1 of 2 holds NaN or infinity in f.h5"
    train(workspace(project))
    assert evaluate(workspace(project))["coverage"] == "2 of 3 test videos, 3 of 6 captions"


@pytest.mark.parametrize(("name", "ids"), [("frames", "video_ids"), ("text", "caption_ids")])
def test_a_file_of_which_nothing_can_be_used(
    project: Path, tmp_path: Path, name: str, ids: str
) -> None:
    faulty = features()
    faulty[name][:] = np.nan
    with pytest.raises(FeatureFileError, match=rf"{ids} cannot be used .*NaN.*nothing is left"):
        bring(project, write_hdf5(tmp_path / "f.h5", faulty))
    assert not workspace(project).features.exists()


def test_a_split_without_captions_is_named(project: Path, tmp_path: Path) -> None:
    part = features(caption_ids=CAPTIONS[:-6], text=features()["text"][:-6])
    bring(project, write_hdf5(tmp_path / "f.h5", part))
    train(workspace(project))
    with pytest.raises(CacheError, match=r"none of the 6 test captions has features"):
        evaluate(workspace(project))


def test_extract_says_what_to_do_without_videos_or_encoder(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder is not set.*`gare-cache import-features`"):
        extract(workspace(project))
    change_params(project, encoder__model="demo")
    with pytest.raises(ConfigError, match=r"names no video file: dataset.video_roots is empty"):
        extract(workspace(project))


def test_stages_out_of_order(tmp_path: Path, project: Path, source: Path) -> None:
    with pytest.raises(CacheError, match=r"features.json does not exist"):
        export(workspace(project), tmp_path / "f.h5")
    space = Workspace(project, workspace(project).params, tmp_path / "elsewhere")
    with pytest.raises(AnnotationError, match=r"run `gare-cache prepare` first"):
        import_features(space, ImportRequest([source], encoder_id=NAME))


def test_by_command(project: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    code, out, err = run("import-features", str(source), "--encoder-id", NAME)
    assert (code, out) == (0, "outputs/features.json\n"), err
    assert "docs/features.md" in run("import-features", "--help")[1]
    code, out, err = run("export-features", "out.h5", "--split", "test", "--split", "val")
    assert (code, out) == (0, "out.h5\n"), err
    code, _, err = run("export-features", "out.h5")
    assert code == 2
    assert err == "error: out.h5 exists; remove it, or give another name\n"
    code, _, err = run("import-features", "captions.csv", "--encoder-id", "x")
    assert code == 2
    assert err.startswith("error: captions.csv is neither an HDF5 file, nor an npz archive")


def test_the_documented_example_makes_a_file_that_imports(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs/features.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)

    def encode(scale: float) -> Callable[[str], Any]:
        return lambda id_: np.random.default_rng(len(id_)).standard_normal((3, DIM)) * scale

    names: dict[str, Any] = {"encode_video": encode(1), "encode_text": lambda c: encode(1)(c)[0]}
    names |= {"videos": VIDEOS, "captions": dict.fromkeys(CAPTIONS, "a sentence")}
    exec(compile(example, "docs/features.md", "exec"), names)
    written = bring(project, tmp_path / "features.h5")
    assert written["videos"] == {"encoded": 14, "failed": 0, "missing": 0}
    assert written["captions"]["encoded"] == 28
    cache, _ = open_features(workspace(project))
    assert np.isfinite(cache.videos(["test0"]).times).sum() == 3
