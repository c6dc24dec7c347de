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
from gare_cache.errors import ConfigError
from gare_cache.presets import project_files
from gare_cache.stages.init import init
from tests.tiny import make_project, write_params


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
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "captions.csv").write_text("mine, too")
    with pytest.raises(ConfigError, match=r"has README.md already, and nothing is overwritten"):
        init(tmp_path, preset="generic")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "captions.csv"]
    assert (tmp_path / "README.md").read_text() == "mine"
    (tmp_path / "README.md").unlink()
    init(tmp_path, preset="generic")
    with pytest.raises(
        ConfigError, match=r"has params.yaml, dvc.yaml, .gitignore, README.md, studies"
    ):
        init(tmp_path, preset="demo")


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
    write_params(project, {section: tiny[section] for section in values})
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
    assert run("repro") == ["prepare", "extract", "train", "evaluate", "report"]
    assert run("repro") == []
    assert (project / "outputs/report/report.html").is_file()
