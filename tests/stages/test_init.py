import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.config import load_params
from gare_cache.errors import ConfigError
from gare_cache.presets import project_files
from gare_cache.stages.init import init
from tests.tiny import change_params, make_project, write_params


def test_the_command_writes_the_presets_files_and_says_what_is_next(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "project"
    arguments = ["init", str(folder), "--preset", "msrvtt-1ka", "--encoder", "ViT-L-14"]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.stderr
    files = [path for path in folder.rglob("*") if path.is_file()]
    written = {str(path.relative_to(folder)): path.read_text() for path in files}
    assert written == project_files("msrvtt-1ka", encoder="ViT-L-14")
    lines = [str(folder / name) for name in written]
    assert sorted(result.stdout.splitlines()[:-1]) == sorted(lines)
    assert result.stdout.splitlines()[-1] == f"next: cd {folder}, and follow README.md"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    init(tmp_path, preset="generic")
    params = (tmp_path / "params.yaml").read_text()
    with pytest.raises(
        ConfigError,
        match=r"has params.yaml, dvc.yaml, .gitignore, README.md, studies already, and nothing is",
    ):
        init(tmp_path, preset="demo")
    assert (tmp_path / "params.yaml").read_text() == params
    (tmp_path / "other").mkdir()
    (tmp_path / "other/studies").mkdir()
    (tmp_path / "other/studies/alpha.yaml").write_text("mine")
    with pytest.raises(ConfigError, match=r"other has studies already, and nothing is overwritten"):
        init(tmp_path / "other", preset="generic")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["studies"]


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_repository_with_readme_and_gitignore_becomes_a_project(
    tmp_path: Path, ending: str
) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "captions.csv").write_text("mine, too")
    (tmp_path / ".gitignore").write_text(f"*.tmp\n/cache/{ending}")
    result = CliRunner().invoke(cli.app, ["init", str(tmp_path), "--preset", "generic"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"next: cd {tmp_path}, and follow GARE-CACHE.md"
    assert (tmp_path / "README.md").read_text() == "mine"
    files = project_files("generic")
    assert (tmp_path / "GARE-CACHE.md").read_text() == files["README.md"]
    lines = (tmp_path / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["*.tmp", "/cache/"]
    assert sorted(lines[2:]) == sorted({*files[".gitignore"].splitlines()} - {"/cache/"})
    with pytest.raises(ConfigError, match=r"has params.yaml, .*README.md.* GARE-CACHE.md already"):
        init(tmp_path, preset="generic")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("films", "films"), ("my films (2)", "my-films-2"), (".hidden", "hidden"), ("\u00e9", "mine")],
)
def test_own_data_is_named_after_the_folder(tmp_path: Path, folder: str, name: str) -> None:
    init(tmp_path / folder, preset="generic")
    assert load_params(tmp_path / folder / "params.yaml").dataset.name == name
    init(tmp_path / folder / "known", preset="msrvtt-1ka")
    assert load_params(tmp_path / folder / "known/params.yaml").dataset.name == "msrvtt-1ka"


def test_own_videos_with_the_demos_encoder_need_no_weights(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    (project / "params.yaml").unlink()
    init(project, preset="generic", encoder="demo")
    monkeypatch.chdir(project)
    change_params(project, train__epochs=1, train__batch_size=4, evaluate__resamples=20)
    for command in ("prepare", "extract", "train"):
        result = CliRunner().invoke(cli.app, [command])
        assert result.exit_code == 0, result.stderr
    record = (project / "outputs/run/record.json").read_text()
    assert '"best_epoch": 1' in record


@pytest.mark.slow
def test_dvc_runs_the_new_project_without_the_packages_source(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    dvc = shutil.which("dvc", path=str(Path(sys.executable).parent))
    if dvc is None:
        pytest.skip("dvc is not installed beside this Python")
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    tiny = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").unlink()
    init(project, preset="generic")
    values = yaml.safe_load((project / "params.yaml").read_text())
    tiny["evaluate"]["split"] = "test"
    write_params(project, {**values, **{name: tiny[name] for name in values if name in tiny}})
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment: dict[str, Any] = {**os.environ, "PATH": path}
    environment.pop("GARE_CACHE_ROOT", None)

    def run(*arguments: str) -> list[str]:
        done = subprocess.run(
            [dvc, *arguments], cwd=project, capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = done.stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    run("init", "--no-scm", "--quiet")
    assert run("repro") == ["prepare", "extract", "train", "finetune", "evaluate", "report"]
    assert run("repro") == []
    assert (project / "outputs/report/report.html").is_file()


def test_own_videos_are_listed_for_captions_or_taken_with_theirs(tmp_path: Path) -> None:
    videos = tmp_path / "films"
    (videos / "a").mkdir(parents=True)
    for name in ("a/x, 1.mp4", "b.MOV", "notes.txt"):
        (videos / name).write_bytes(b"x")
    one, other = tmp_path / "one", tmp_path / "other"
    arguments = ["init", str(one), "--preset", "generic", "--videos", str(videos)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.stderr
    assert "fill in the column caption" in result.stdout
    listed = one / "captions.csv"
    assert listed.read_text() == 'video,caption\n"a/x, 1.mp4",\nb.MOV,\n'
    assert load_params(one / "params.yaml").dataset.video_roots == [str(videos)]
    init(other, preset="generic", videos=videos, captions=listed)
    assert load_params(other / "params.yaml").dataset.annotations == str(listed)
    assert not (other / "captions.csv").exists()
    with pytest.raises(ConfigError, match="are of preset 'generic'"):
        init(tmp_path / "third", preset="msvd", videos=videos)
    with pytest.raises(ConfigError, match="holds no video files"):
        init(tmp_path / "third", preset="generic", videos=one)
