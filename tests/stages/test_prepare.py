import csv
from pathlib import Path
from typing import Any

import pytest

from gare_cache.errors import ConfigError
from gare_cache.files import read_json
from gare_cache.project.paths import Workspace
from gare_cache.stages.prepare import prepare
from tests.tiny import workspace, write_params


def project_of(folder: Path, rows: list[tuple[str, ...]], **dataset: Any) -> Workspace:
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    own = {"name": "d", "annotations": "captions.csv", "video_roots": [], **dataset}
    write_params(folder, {"dataset": own})
    return workspace(folder)


ROWS = [
    ("video", "caption", "split"),
    ("a", "He sits.", "train"),
    ("a", "He stands.", "train"),
    ("b", "A cat.", "train"),
    ("b", "A cat.", "train"),
    ("c", "A cat.", "train"),
    ("d", "A dog.", "val"),
    ("e", "A dog.", "test"),
]


def test_counts_are_said_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = project_of(tmp_path, ROWS)
    summary = prepare(space)
    assert summary == read_json(space.manifest / "summary.json")
    assert capsys.readouterr().err.splitlines() == [
        "train: 3 videos, 5 captions",
        "    1 repeat a sentence of the same video",
        "    3 have a sentence that describes several videos (1 such sentences)",
        "val: 1 video, 1 caption",
        "test: 1 video, 1 caption",
        "warning: val has 1 video: one of them is 100.0 points of R@1, and differences of that "
        "size mean little",
        "warning: test has 1 video: one of them is 100.0 points of R@1, and differences of that "
        "size mean little",
        "dataset.video_roots is empty: features come from `gare-cache import-features`",
    ]


def test_paragraphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = prepare(project_of(tmp_path, ROWS, captions="paragraph"))
    assert summary["splits"]["train"]["captions"] == 3
    assert "7 sentences are joined to 5 paragraphs" in capsys.readouterr().err
    prepare(project_of(tmp_path, [*ROWS[:2], *ROWS[-2:]], captions="paragraph"))
    assert "warning: dataset.captions: paragraph joins nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({"protocol": "full"}, r"dataset.protocol is 'full', but reader 'generic'"),
        ({"reader": "msrvtt"}, r"dataset.protocol is not set"),
        ({"reader": "msrvtt", "protocol": "full", "captions": "paragraph"}, r"the protocols of r"),
        ({"reader": "msrvtt", "protocol": "full", "val_fraction": 0.1}, r"val_fraction is 0.1, bu"),
    ],
)
def test_a_setting_that_the_reader_does_not_use_is_refused(
    tmp_path: Path, dataset: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(project_of(tmp_path, ROWS, **dataset))


def test_fractions_and_their_default(tmp_path: Path) -> None:
    rows = [("video", "caption"), *((f"v{n}", "c") for n in range(300))]
    default = prepare(project_of(tmp_path, rows))["splits"]
    given = {"val_fraction": 0.1, "test_fraction": 0.1}
    assert prepare(project_of(tmp_path, rows, **given))["splits"] == default
    more = prepare(project_of(tmp_path, rows, val_fraction=0.4))["splits"]
    assert more["val"]["videos"] > 2 * default["val"]["videos"] > 0
    assert more["test"] == default["test"]


def test_official_msrvtt(
    tmp_path: Path, shared_data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = {"reader": "msrvtt", "protocol": "1k-a-9k"}
    source = str(shared_data_dir / "annotations" / "msrvtt")
    prepare(project_of(tmp_path, ROWS, annotations=source, **dataset))
    assert capsys.readouterr().err.splitlines()[:9] == [
        "train: 8,503 videos, 170,060 captions",
        "    12,528 repeat a sentence of the same video",
        "    22,288 have a sentence that describes several videos (4,541 such sentences)",
        "val: 497 videos, 9,940 captions",
        "    729 repeat a sentence of the same video",
        "    666 have a sentence that describes several videos (202 such sentences)",
        "test: 1,000 videos, 1,000 captions",
        "    9 have a sentence that describes several videos (4 such sentences)",
        "497 of the 9,000 ids of MSRVTT_train.9k.csv are official validation videos: they select "
        "the epoch and are not trained on",
    ]
