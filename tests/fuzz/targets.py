"""What is fed with damaged files: a project with each of its files, and the files users bring."""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from gare_cache.annotations.msrvtt import ARCHIVES
from gare_cache.cache.folders import pack
from tests.annotations import test_lsmdc as lsmdc
from tests.annotations import test_moments as moments
from tests.annotations import test_msvd as msvd
from tests.annotations import test_tgif as tgif
from tests.annotations import test_vatex as vatex
from tests.annotations import test_youcook2 as youcook2
from tests.annotations.test_msrvtt import QUERIES, TRAIN, content, write_archive
from tests.fuzz.brought import PROTOCOLS, write_official_files, write_releases
from tests.tiny import change_params, make_project, make_tiny_encoder

Command = tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A file that is damaged, and the commands that read it.

    Attributes:
        file: path below the project's folder; the first match of a pattern.
        commands: command lines run in the project's folder.
        before: called before each case, for what a command consumes.
    """

    file: str
    commands: tuple[Command, ...]
    before: Callable[[Path], None] = field(default=lambda folder: None)


INFO, VERIFY, FIT = ("info",), ("verify",), ("train",)
EVALUATE, REPORT = ("evaluate",), ("report",)
ABLATE = ("ablate", "study.yaml")
COMPARE = ("compare", "outputs", "outputs-b")
IMPORT = ("import-features", "--encoder-id", "x", "-o", "imported", "--ignore-unknown")
PREPARE = ("prepare", "-o", "prepared")
MSRVTT = (*PREPARE, "-p", "msrvtt.yaml")
UNPACK = ("cache", "unpack", "packed.tar", "-p", "elsewhere/params.yaml")
CACHE = "cache/tiny-*"


def _fresh_import(folder: Path) -> None:
    shutil.copytree(folder / "outputs/manifest", folder / "imported/manifest", dirs_exist_ok=True)


def _nothing_unpacked(folder: Path) -> None:
    shutil.rmtree(folder / "elsewhere/cache", ignore_errors=True)


# Folder of official files -> those that are damaged.
OFFICIAL = {
    "didemo": ("train_data.json", "test_list.txt"),
    "activitynet": ("val_1.json", "val_ids.json"),
    "msvd": (msvd.CAPTIONS, msvd.LISTS["test"], msvd.MAPPING),
    "msvd-pickled": (msvd.PICKLED,),
    "lsmdc": (lsmdc.FILES["train"],),
    "tgif": (tgif.TABLE, tgif.LISTS["train"]),
    "youcook2": (youcook2.ANNOTATIONS, youcook2.MILNCE_LIST),
    "vatex": (vatex.TRAINING, vatex.RANDOM_LIST),
    "vatex-references": (vatex.REFERENCES,),
    "moments": (moments.VAL,),
}
# Layout -> videos, captions and the files that are damaged, below the folder of releases.
RELEASES = {
    "npz-per-item": ("npz/video", "npz/text", ("npz/video/train0.npz", "ids.csv")),
    "npy-per-item": ("npy/video", "npy/text", ("npy/video/train0.npy",)),
    "h5-per-item": ("video.h5", "text.h5", ("video.h5",)),
    "torch-dict": ("video.pth", "text-old.pth", ("video.pth", "text-old.pth")),
    "bigfile": (
        "bigfile",
        "bigfile-text",
        tuple(f"bigfile/{x}" for x in ("feature.bin", "id.txt", "shape.txt", "video2frames.txt")),
    ),
    "webdataset": ("video.tar", "text.tar", ("video.tar",)),
    "huggingface": ("video.parquet", "text.parquet", ("video.parquet", "text.parquet")),
}
# Layout of an export -> the files that are damaged.
EXPORTED = {
    "npz-per-item": ("gare_cache.json", "encoder_init.npz", "video.csv", "video/*train0.npz"),
    "webdataset": ("video-00000.tar", "text-00000.tar"),
    "huggingface": ("video/train-*.parquet", "text/test-*.parquet"),
}


def _brought() -> Iterator[tuple[str, Target]]:
    for folder, files in OFFICIAL.items():
        for file in files:
            command = (*PREPARE, "-p", f"{folder}.yaml")
            yield f"{folder} {file}", Target(f"{folder}/{file}", (command,))
    for layout, (videos, texts, files) in RELEASES.items():
        paths = (f"releases/{videos}", "--captions", f"releases/{texts}", "--layout", layout)
        release = (*IMPORT, *paths, "--ids", "releases/ids.csv")
        for file in files:
            yield f"{layout} {file}", Target(f"releases/{file}", (release,), _fresh_import)
    for layout, files in EXPORTED.items():
        command = ("import-features", f"exported-{layout}", "-o", "imported", "--ignore-unknown")
        for file in files:
            target = Target(f"exported-{layout}/{file}", (command,), _fresh_import)
            yield f"exported {layout} {file}", target


BROUGHT: dict[str, Target] = {
    **dict(_brought()),
    "captions.csv": Target("captions.csv", (PREPARE,)),
    "captions.jsonl": Target("captions.jsonl", ((*PREPARE, "-p", "jsonl.yaml"),)),
    "captions.parquet": Target("captions.parquet", ((*PREPARE, "-p", "parquet.yaml"),)),
    "msrvtt archive": Target("msrvtt/*.zip", (MSRVTT,)),
    "msrvtt list": Target(f"msrvtt/{TRAIN}", (MSRVTT,)),
    "msrvtt queries": Target(f"msrvtt/{QUERIES}", (MSRVTT,)),
    "params.yaml": Target("other.yaml", ((*PREPARE, "-p", "other.yaml"),)),
    "study": Target("study.yaml", ((*ABLATE, "--dry-run"),)),
    "features.npz": Target("features.npz", ((*IMPORT, "features.npz"),), _fresh_import),
    "features.h5": Target("features.h5", ((*IMPORT, "features.h5"),), _fresh_import),
    "frames.npy": Target("arrays/frames.npy", ((*IMPORT, "arrays"),), _fresh_import),
    "matrix.npy": Target("matrix.npy", (("score", "matrix.npy"),)),
    "packed cache": Target("packed.tar", (UNPACK,), _nothing_unpacked),
}
OWN: dict[str, Target] = {
    "features.json": Target("outputs/features.json", (INFO, VERIFY, EVALUATE)),
    "manifest of videos": Target("outputs/manifest/videos.parquet", (INFO, EVALUATE)),
    "manifest of captions": Target("outputs/manifest/captions.parquet", (INFO, EVALUATE)),
    "items.parquet": Target(f"{CACHE}/items.parquet", (INFO, VERIFY, EVALUATE)),
    "captions of the cache": Target(f"{CACHE}/captions.parquet", (INFO, VERIFY)),
    "journal": Target(f"{CACHE}/journal/units.jsonl", (INFO, VERIFY, EVALUATE)),
    "owner": Target(f"{CACHE}/owner.json", (VERIFY, ("cache", "gc"), ("extract", "--dry-run"))),
    "group": Target(f"{CACHE}/features.zarr/zarr.json", (INFO, VERIFY)),
    "array": Target(f"{CACHE}/features.zarr/video/frames/zarr.json", (INFO, VERIFY)),
    "chunk": Target(f"{CACHE}/features.zarr/video/frames/c/0/0/0", (VERIFY, EVALUATE)),
    "manifest of the cache": Target(f"{CACHE}/manifest/videos.parquet", (VERIFY,)),
    "head start": Target(f"{CACHE}/encoder_init.safetensors", (VERIFY, FIT)),
    "head": Target("outputs/run/head.safetensors", (EVALUATE,)),
    "run record": Target("outputs/run/record.json", (REPORT, COMPARE)),
    "analysis": Target("outputs/evaluation/analysis.json", (REPORT,)),
    "retrieved": Target("outputs/evaluation/retrieved.parquet", (REPORT,)),
    "similarity": Target("outputs/evaluation/similarity.npy", (REPORT, COMPARE)),
    "summary": Target("outputs/manifest/summary.json", (REPORT,)),
    "training state": Target(".gare/state/*/training.pt", (FIT,)),
    "metrics": Target("outputs/evaluation/metrics.json", (REPORT, COMPARE)),
    "ranks": Target("outputs/evaluation/ranks.parquet", (REPORT, COMPARE)),
    "history": Target("outputs/run/train_log.jsonl", (REPORT,)),
    "run of a study": Target(".gare/runs/*/run.json", (ABLATE,)),
    "record of a study's run": Target(".gare/runs/*/run/record.json", (ABLATE,)),
    "log of a study's run": Target(".gare/runs/*/run/train_log.jsonl", (ABLATE,)),
    "scores of a study": Target(".gare/runs/*/val-*/metrics.json", (ABLATE,)),
    "ranks of a study": Target(".gare/runs/*/val-*/ranks.parquet", (ABLATE,)),
    "results of a study": Target("outputs/studies/study/study.json", (ABLATE,)),
    "thumbnail": Target(f"{CACHE}/thumbnails/0000000.jpg", (REPORT,)),
    "lock": Target(".gare/locks/*.lock", (EVALUATE,)),
    "id of the project": Target(".gare/id", (("extract", "--dry-run"), VERIFY)),
    "ledger": Target(".gare/ledger.jsonl", (EVALUATE, REPORT)),
}


def make(folder: Path, run: Callable[[Command], int]) -> None:
    """Make a finished project with all files of the targets.

    Args:
        folder: where.
        run: runs a command in the folder and returns its exit code.
    """
    make_project(folder, make_tiny_encoder(folder.parent / "encoder", seed=0))
    change_params(folder, train__epochs=1)
    study = {
        "title": "s",
        "base": "params.yaml",
        "axes": {"train.epochs": [1, 2]},
        "seeds": [0, 1],
        "reference": "epochs=1",
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    exports = [("export-features", f"exported-{x}", "--layout", x) for x in EXPORTED]
    for command in (("prepare",), ("extract",), *exports, FIT, EVALUATE, REPORT, ABLATE):
        assert run(command) == 0, command
    shutil.copytree(folder / "outputs", folder / "outputs-b")
    pack(next((folder / "cache").glob("tiny-*")), folder / "packed.tar")
    (folder / "elsewhere").mkdir()
    shutil.copy(folder / "params.yaml", folder / "elsewhere/params.yaml")
    _bring_annotations(folder)
    _bring_features(folder)


def _bring_annotations(folder: Path) -> None:
    with (folder / "captions.csv").open() as file:
        rows = list(csv.DictReader(file))
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "captions.parquet")
    values = yaml.safe_load((folder / "params.yaml").read_text())
    for name, changes in {
        "jsonl": {"annotations": "captions.jsonl"},
        "parquet": {"annotations": "captions.parquet"},
        "msrvtt": {
            "reader": "msrvtt",
            "protocol": "1k-a-9k",
            "annotations": "msrvtt",
            "video_roots": [],
        },
        "other": {},
        **{
            folder: {
                "reader": reader,
                "protocol": protocol,
                "annotations": folder,
                "video_roots": [],
            }
            for folder, (reader, protocol) in PROTOCOLS.items()
        },
    }.items():
        dataset = {**values["dataset"], **changes}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**values, "dataset": dataset}))
    write_official_files(folder)
    (folder / "msrvtt").mkdir()
    train_val, test = (folder / "msrvtt" / name for name in ARCHIVES)
    write_archive(train_val, content(["v0", "v1", "v2"]))
    write_archive(test, content(["v3", "v4"]))
    (folder / "msrvtt" / TRAIN).write_text("video_id\nv3\nv0\nv2\nv1\n")
    (folder / "msrvtt" / QUERIES).write_text(
        "key,vid_key,video_id,sentence\nret0,msr4,v4,a query\n"
    )


def _bring_features(folder: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "video_ids": np.array([f"train{n}" for n in range(8)]),
        "frames": rng.normal(size=(8, 4, 16)).astype("f2"),
        "num_frames": np.full(8, 4, "i4"),
        "caption_ids": np.array([f"train{n}#0" for n in range(8)]),
        "text": rng.normal(size=(8, 16)).astype("f2"),
    }
    np.savez(folder / "features.npz", **arrays)  # type: ignore[arg-type]
    (folder / "arrays").mkdir()
    for name, values in arrays.items():
        np.save(folder / "arrays" / f"{name}.npy", values)
    with h5py.File(folder / "features.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values.astype("S") if values.dtype.kind == "U" else values
    (folder / "releases").mkdir()
    videos = dict(zip(arrays["video_ids"].tolist(), arrays["frames"], strict=True))
    texts = dict(zip(arrays["caption_ids"].tolist(), arrays["text"], strict=True))
    write_releases(folder / "releases", videos, texts)
    np.save(folder / "matrix.npy", rng.normal(size=(9, 9)))
