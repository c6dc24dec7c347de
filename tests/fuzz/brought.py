"""Small files of the official annotations and of feature releases, to be damaged."""

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from tests.annotations import test_activitynet as activitynet
from tests.annotations import test_didemo as didemo
from tests.annotations import test_lsmdc as lsmdc
from tests.annotations import test_moments as moments
from tests.annotations import test_msvd as msvd
from tests.annotations import test_tgif as tgif
from tests.annotations import test_vatex as vatex
from tests.annotations import test_youcook2 as youcook2
from tests.annotations.official import dump
from tests.stages.test_import_layouts import write_big_file, write_tar

# Folder of official files -> reader and protocol.
PROTOCOLS = {
    "didemo": ("didemo", "paragraph-listed"),
    "activitynet": ("activitynet", "paragraph"),
    "msvd": ("msvd", "all-captions"),
    "msvd-pickled": ("msvd", "first-caption"),
    "lsmdc": ("lsmdc", "1k"),
    "tgif": ("tgif", "all-captions"),
    "youcook2": ("youcook2", "clip-milnce"),
    "vatex": ("vatex", "random-1k5"),
    "vatex-references": ("vatex", "hgr"),
    "moments": ("moments", "window"),
}


def write_official_files(folder: Path) -> None:
    """Write the folders of ``PROTOCOLS``, each with what its protocol reads."""
    for name in PROTOCOLS:
        (folder / name).mkdir()
    _write_didemo(folder / "didemo")
    tests = {activitynet.SECOND: activitynet.video("One.", " two"), activitynet.THIRD: {}}
    tests[activitynet.THIRD] = activitynet.video("x", times=[[5, 5]])
    dump(folder / "activitynet/train.json", {activitynet.FIRST: activitynet.video("One ", "2")})
    dump(folder / "activitynet/val_1.json", tests)
    dump(folder / "activitynet/val_ids.json", [*tests])
    for place in (folder / "msvd", folder / "msvd-pickled"):
        for split, id_ in zip(("train", "val", "test"), msvd.TEXTS, strict=True):
            (place / msvd.LISTS[split]).write_text(f"{id_}\n")
    dump(folder / "msvd" / msvd.CAPTIONS, msvd.TEXTS)
    (folder / "msvd" / msvd.MAPPING).write_text("c-c_3_4 vid1300\n")
    words = {id_: [text.split() for text in texts] for id_, texts in msvd.TEXTS.items()}
    (folder / "msvd-pickled" / msvd.PICKLED).write_bytes(pickle.dumps(words))
    for split, id_ in zip(("train", "val", "test"), (lsmdc.A, lsmdc.B, lsmdc.C), strict=True):
        (folder / "lsmdc" / lsmdc.FILES[split]).write_text(lsmdc.row(id_, 'says "go') * 2)
    (folder / "tgif" / tgif.TABLE).write_text(tgif.table(*tgif.ROWS))
    for split, name in zip(("train", "val", "test"), "abc", strict=True):
        (folder / "tgif" / tgif.LISTS[split]).write_text(tgif.url(name) + "\n")
    dump(folder / "youcook2" / youcook2.ANNOTATIONS, {"database": youcook2.DATABASE})
    rows = "7,3,113,wait,b_b\n8,5,113,cut,b_b\n"
    (folder / "youcook2" / youcook2.MILNCE_LIST).write_text(youcook2.HEADER + rows)
    for place in (folder / "vatex", folder / "vatex-references"):
        ids = {"train": vatex.TRAIN, "val": vatex.VAL, "test": vatex.TEST}
        for split, id_ in ids.items():
            (place / vatex.LISTS[split]).write_text(f"{id_}\n")
        (place / vatex.RANDOM_LIST).write_text(f"{vatex.VAL}\n")
    vatex.write_official(folder / "vatex")
    vatex.write_references(folder / "vatex-references")
    rows_of = (moments.line(7, "-a_60.0_210.0", [0, 20], [82, 150]), moments.line(5, "b", [0.5, 9]))
    moments.write(folder / "moments" / moments.VAL, *rows_of)


def _write_didemo(folder: Path) -> None:
    names = {"train": "5@N01_6_c.avi", "val": "7@N01_8_d.m4v", "test": "1@N01_2_a.mp4"}
    for number, (split, name) in enumerate(names.items()):
        dump(folder / didemo.FILES[split], [didemo.sentence(name, "a sentence", number)])
        (folder / didemo.LISTS[split]).write_text(f"{name}\n")


def write_releases(folder: Path, videos: Mapping[str, Any], texts: Mapping[str, Any]) -> None:
    """Write the same features in each layout of a release, below a folder for each kind.

    Args:
        folder: where; ``npz/video``, ``npz/text``, ``h5-video.h5``, ...
        videos: (T, D) by id.
        texts: (D,) by id.
    """
    (folder / "ids.csv").write_text(
        "theirs,ours\n" + "".join(f"{id_},{id_}\n" for id_ in [*videos, *texts])
    )
    for kind, items in (("video", videos), ("text", texts)):
        for id_, value in items.items():
            for layout, save in (("npz", np.savez), ("npy", np.save)):
                file = folder / layout / kind / f"{id_}.{layout}"
                file.parent.mkdir(parents=True, exist_ok=True)
                save(file, value)  # type: ignore[operator]
        with h5py.File(folder / f"{kind}.h5", "w") as file:
            for id_, value in items.items():
                file[id_] = value
        tensors = {id_: torch.tensor(value) for id_, value in items.items()}
        torch.save(tensors, folder / f"{kind}.pth")
        torch.save(tensors, folder / f"{kind}-old.pth", _use_new_zipfile_serialization=False)
        write_tar(folder / f"{kind}.tar", dict(items))
        columns = {"id": [*items], "features": [value.tolist() for value in items.values()]}
        pq.write_table(pa.table(columns), folder / f"{kind}.parquet")
    rows = {f"{id_}_{n}": row for id_, value in videos.items() for n, row in enumerate(value)}
    write_big_file(folder / "bigfile", rows)
    frames = {id_: [f"{id_}_{n}" for n in range(len(value))] for id_, value in videos.items()}
    (folder / "bigfile" / "video2frames.txt").write_text(json.dumps(frames))
    write_big_file(folder / "bigfile-text", dict(texts))
