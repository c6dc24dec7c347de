"""Files that cannot be written, command by command: one line, exit code 1, finished work kept.

A limit on the size of files fails the write that crosses it, as a full disk does, on any machine.
"""

import os
import shutil
from pathlib import Path

import h5py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.stages.extraction import run_command
from tests.tiny import make_project

FEW = (10, 10_000)
MANY = (1_000, 3_000, 30_000, 100_000, 300_000, 1_000_000)
# Each with those that must have run before it.
COMMANDS = {
    "prepare": ("prepare", ()),
    "extract": ("extract", ("prepare",)),
    "train": ("train", ("prepare", "extract")),
    "evaluate": ("evaluate", ("prepare", "extract", "train")),
    "report": ("report", ("prepare", "extract", "train", "evaluate")),
    "export": ("export-features exported.h5", ("prepare", "extract")),
    **{
        f"export {layout}": (f"export-features out --layout {layout}", ("prepare", "extract"))
        for layout in ("npz-per-item", "webdataset", "huggingface")
    },
    "pack": ("cache pack packed.tar", ("prepare", "extract")),
    "unpack": ("cache unpack there.tar", ("prepare", "extract", "pack there.tar")),
    "ablate": ("ablate study.yaml", ("prepare", "extract")),
}
STUDY = {
    "title": "directions",
    "question": "which alpha?",
    "base": "params.yaml",
    "set": {"train.epochs": 1},
    "axes": {"train.loss.dir.alpha": [1.0]},
    "seeds": [0],
    "reference": "alpha=1.0",
}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> dict[str, Path]:
    """The tiny project after each command of the pipeline."""
    folder = tmp_path_factory.mktemp("full disk")
    project = make_project(folder / "project", tiny_encoder_dir)
    (project / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    kept = {"": shutil.copytree(project, folder / "new")}
    for name in ("prepare", "extract", "train", "evaluate"):
        code, err = run_command(name, folder=project)
        assert code == 0, err
        kept[name] = shutil.copytree(project, folder / name)
    return kept


@pytest.mark.parametrize("limits", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_cannot_be_written_is_one_line(
    states: dict[str, Path],
    tmp_path: Path,
    name: str,
    limits: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    line, before = COMMANDS[name]
    failures = 0
    for limit in limits:
        project = tmp_path / f"at {limit}"
        shutil.copytree(states[[*("", *before)][-1 if name != "unpack" else -2]], project)
        (folder,) = (project / "cache").iterdir() if (project / "cache").exists() else (None,)
        arguments = line.split()
        if name in ("pack", "unpack"):
            arguments.insert(2, str(folder))
        if name == "unpack":
            code, err = run_command("cache", "pack", str(folder), "there.tar", folder=project)
            assert code == 0, err
            arguments.remove(str(folder))
            shutil.rmtree(folder)
        code, err = run_command(*arguments, folder=project, most_bytes=limit)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (code, len(lines)) in ((0, 0), (1, 1)), (limit, code, err)
        if code:
            failures += 1
            assert err.splitlines()[-1] == lines[0]
            assert "Traceback" not in err
            assert lines[0].startswith("error: cannot write ")
            assert "the limit of a file's size is reached; raise `ulimit -f`" in lines[0]
        assert not list(project.rglob("*.partial")) or name == "extract"
        code, err = run_command(*arguments, folder=project) if code else (0, "")
        assert code == 0, (limit, err)
    assert failures, "no limit was reached"


def test_an_export_that_fails_halfway_leaves_no_file_and_later_is_whole(
    states: dict[str, Path], tmp_path: Path
) -> None:
    project = shutil.copytree(states["extract"], tmp_path / "project")
    assert run_command("export-features", "whole.h5", folder=project)[0] == 0
    size = (project / "whole.h5").stat().st_size
    for limit in range(0, size, max(1, size // 12)):
        code, err = run_command("export-features", "part.h5", folder=project, most_bytes=limit)
        assert (code, "part.h5" in err.splitlines()[-1]) == (1, True), (limit, err)
        assert not list(project.glob("part.h5*"))
    with h5py.File(project / "whole.h5") as file:
        assert file.attrs["dataset"] == "tiny"


@pytest.mark.parametrize("file", ["ranks", "retrieved"])
def test_another_table_in_place_of_an_evaluations_is_named(
    states: dict[str, Path], tmp_path: Path, file: str
) -> None:
    project = shutil.copytree(states["evaluate"], tmp_path / "project")
    path = project / "outputs" / "evaluation" / f"{file}.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("query_id")
    numbers = pa.array(range(len(table)), pa.int64())
    for changed in (table.drop_columns("query_id"), table.set_column(place, "query_id", numbers)):
        pq.write_table(changed, path)
        code, err = run_command("report", folder=project)
        assert code == 2
        assert f"{file}.parquet has " in err
        assert "'query_id'" in err.splitlines()[-1]


def test_a_folder_whose_name_is_not_utf_8_is_named(states: dict[str, Path], tmp_path: Path) -> None:
    project = shutil.copytree(states[""], tmp_path / "project")
    (project / "videos" / "train").rename(project / "videos" / os.fsdecode(b"caf\xe9"))
    code, err = run_command("prepare", folder=project)
    assert code == 2
    assert err.splitlines()[-1] == (
        r"error: a name is not UTF-8: videos/caf\udce9/train0.mp4; rename the file or folder"
    )
