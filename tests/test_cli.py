import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gare_cache import cli
from tests.terminal import unstyle
from tests.tiny import change_params

COMMANDS = ("demo", "prepare", "extract", "info", "train", "evaluate", "report")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, list(arguments))
    return result.exit_code, unstyle(result.stdout), unstyle(result.stderr)


def test_the_whole_pipeline_by_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.chdir(project)
    for command in COMMANDS[1:]:
        code, out, err = run(command)
        assert code == 0, (command, err)
        assert out
    assert "|" not in out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert any(line.startswith("Text to video head ") for line in lines)
    assert out.strip().endswith("outputs/report/report.html")


def test_help_does_not_import_what_is_slow() -> None:
    slow = ("torch", "numpy", "zarr", "pyarrow", "av", "open_clip", "pydantic", "matplotlib")
    check = f"import sys, gare_cache.cli; print([m for m in {slow} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"


# Torch's OpenMP says how it was set when it is loaded.
WAITING = """
import sys
from gare_cache.cli import main
sys.argv = ["gare-cache", "--version"]
try:
    main()
except SystemExit:
    import torch
"""


@pytest.mark.parametrize(
    ("variables", "spins"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "30000000000"),
    ],
)
def test_threads_that_wait_leave_the_processors_to_others(
    variables: dict[str, str], spins: str
) -> None:
    unset = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    found = subprocess.run(
        [sys.executable, "-c", WAITING],
        env={**inherited, **variables, "OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
        check=True,
    )
    if "GOMP_SPINCOUNT" not in found.stderr:
        pytest.skip("this torch uses another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in found.stderr


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version(flag: str) -> None:
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert run(flag) == (0, f"gare-cache {settings['project']['version']}\n", "")


def test_no_command_shows_the_help() -> None:
    code, out, err = run()
    assert code == 2
    assert "Encode a text-video benchmark once" in out + err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prepair"], "No such command 'prepair'. Did you mean 'prepare', 'report'?"),
        (["train", "--devic", "cpu"], "No such option: --devic (Possible options: --device)"),
        (["extract", "--retry_failed"], "--retry_failed (Possible options: --retry-failed)"),
        (["extract", "--max_failed_percent", "3"], "extract.max_failed_percent can be set: in pa"),
        (["train", "--Batch-Size=3"], "train.batch_size and finetune.batch_size can be set"),
        (["report", "--report.examples", "3"], "report.examples can be set: in params.yaml"),
        (["ablate"], "Missing argument 'study'."),
        (["cache", "pakc"], "No such command 'pakc'. Did you mean 'pack', 'unpack'?"),
        (["extract", "--threads", "-1"], "Invalid value for '--threads'"),
        (["ablate", "s.yaml", "2"], "Invalid value for ROW: row 2 is given without --check"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in " ".join(err.replace("│", " ").split())
    assert "--help' for help." in err


def test_the_shell_completes_commands() -> None:
    words = {
        "_GARE_CACHE_COMPLETE": "complete_bash",
        "COMP_WORDS": "gare-cache ex",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "gare_cache.cli"]
    result = subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True)
    assert result.stdout.split() == ["extract", "export-features"]


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="needs bash")
def test_completion_can_be_shown_and_installed(tmp_path: Path) -> None:
    def in_bash(flag: str) -> str:
        # The shell is found among the parents; a second command keeps bash from replacing itself.
        line = f'"{sys.executable}" -m gare_cache.cli {flag} && true'
        done = subprocess.run(
            ["/bin/bash", "-c", line],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    script = in_bash("--show-completion")
    assert "_GARE_CACHE_COMPLETE=complete_bash" in script
    in_bash("--install-completion")
    (installed,) = tmp_path.rglob("gare-cache.sh")
    assert "_GARE_CACHE_COMPLETE=complete_bash" in installed.read_text()
    assert str(installed) in (tmp_path / ".bashrc").read_text()


def test_a_users_mistake_is_one_line_and_exit_code_2(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    change_params(project, train__epoch=3)
    code, out, err = run("prepare")
    assert (code, out) == (2, "")
    place = "error: params.yaml: unknown setting of train 'epoch'; did you mean 'epochs'"
    assert err.startswith(place)
    assert err.count("\n") == 1
    code, _, err = run("prepare", "--params", "nowhere.yaml")
    assert code == 2
    assert err.startswith("error: nowhere.yaml does not exist")
    assert f"gare-cache init FOLDER --preset NAME` ({project} is no project)" in err
    assert run("prepair")[0] == 2


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["--debug", "prepare", "-p", str(tmp_path / "x.yaml")])
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


def test_the_machines_failures_are_exit_code_1(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    (project / "outputs").write_text("a file where a folder must be")
    code, _, err = run("prepare")
    assert code == 1
    assert err.splitlines()[-1].startswith("error: ")
    (project / "outputs").unlink()
    assert run("prepare")[0] == 0
    code, _, err = run("extract", "--device", "cuda:77")
    assert code == 1
    assert "device 'cuda:77' is not on this machine" in err


def test_ctrl_c_is_exit_code_130(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(project)
    monkeypatch.setattr("gare_cache.stages.prepare.read_annotations", stop)
    code, _, err = run("prepare")
    assert code == 130
    assert "run the same command again" in err
