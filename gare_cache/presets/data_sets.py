"""What the presets of published data sets differ in; everything else is their common base."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """A published data set, the frames and words of its papers, and a batch that fits them.

    Attributes:
        title: its name in text.
        reader: name of the reader, and of the folder under ``data/``.
        protocol: one of the reader's protocols.
        files: the annotation files, for the guide.
        videos: how the video files are named, for the guide.
        expected: what ``prepare`` counts if no file is missing.
        val_fraction: share of the training videos that selects, where nothing official does.
        frames: ``train.num_frames``.
        words: ``encoder.context_length``; None is the model's own.
        batch: ``train.batch_size``.
        v2t: ``evaluate.v2t_convention``.
    """

    title: str
    reader: str
    protocol: str
    files: str
    videos: str
    expected: str
    val_fraction: float | None = None
    frames: int = 12
    words: int | None = 32
    batch: int = 128
    v2t: str = "best_caption_of_all"


_GROUPED = "best_caption_group"

DATA_SETS = {
    "msrvtt-1ka": DataSet(
        "MSR-VTT 1k-A",
        "msrvtt",
        "1k-a-9k",
        "`train_val_annotation.zip` and `test_videodatainfo.json.zip` (or `MSRVTT_data.json`), "
        "`MSRVTT_train.9k.csv` and `MSRVTT_JSFUSION_test.csv`",
        "`video0.mp4` to `video9999.mp4`",
        "8,503 / 497 / 1,000 videos",
        words=None,
    ),
    "didemo": DataSet(
        "DiDeMo",
        "didemo",
        "paragraph",
        "`train_data.json`, `val_data.json`, `test_data.json`",
        "by the names in these files, with any extension",
        "val 1,065, test 1,004 videos",
        frames=64,
        words=64,
        batch=64,
    ),
    "activitynet": DataSet(
        "ActivityNet Captions",
        "activitynet",
        "paragraph",
        "`train.json`, `val_1.json`",
        "`v_ID.mp4` or `ID.mp4`, with any extension",
        "10,009 train and validation videos together, test 4,917",
        val_fraction=0.05,
        frames=64,
        words=64,
        batch=64,
    ),
    "msvd": DataSet(
        "MSVD",
        "msvd",
        "all-captions",
        "`captions_msvd.json` or `raw-captions.pkl`, and `train_list.txt`, `val_list.txt`, "
        "`test_list.txt`",
        "`ID.avi`, with any extension",
        "1,200 / 100 / 670 videos",
        v2t=_GROUPED,
    ),
    "lsmdc": DataSet(
        "LSMDC",
        "lsmdc",
        "1k",
        "`LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv`, "
        "`LSMDC16_challenge_1000_publictect.csv`",
        "`CLIP_ID.avi`, in any subfolders",
        "101,079 / 7,408 / 1,000 captions",
    ),
    "tgif": DataSet(
        "TGIF",
        "tgif",
        "all-captions",
        "`tgif-v1.0.tsv` and the lists `train.txt`, `val.txt`, `test.txt`",
        "by the last part of the URL, as `.gif`, `.mp4` or `.webm`",
        "val 10,708, test 11,360 GIFs",
        v2t=_GROUPED,
    ),
    "youcook2": DataSet(
        "YouCook2",
        "youcook2",
        "clip",
        "`youcookii_annotations_trainval.json`",
        "`ID.mp4`, with any extension, in any subfolders",
        "10,337 train and validation clips together, test 3,491 with 3,492 captions",
        val_fraction=0.1,
    ),
    "vatex": DataSet(
        "VATEX",
        "vatex",
        "hgr",
        "`vatex_training_v1.0.json` and `vatex_validation_v1.0.json` (or `vatex_data.json`, or "
        "`ref_captions.json`), and `train_list.txt`, `val_list.txt`, `test_list.txt`",
        "`ID.mp4`, ID with its start and end, of 10 s each",
        "25,991 / 1,500 / 1,500 videos",
        v2t=_GROUPED,
    ),
}
