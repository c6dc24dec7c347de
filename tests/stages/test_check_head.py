import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from gare_cache import cli, own

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    yield
    own._project.clear()


def run(*arguments: str, folder: Path = EXAMPLES) -> SimpleNamespace:
    few = ("--galleries", "12", "-p", str(folder / "params.yaml"))
    result = CliRunner().invoke(cli.app, ["check-head", *arguments, *few])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def verdicts(out: str) -> list[str]:
    words = [line.split("  ") for line in out.splitlines()[1:]]
    return [part.strip() for line in words for part in line if part.strip() in ("pass", "FAIL")]


def test_the_examples_keep_to_the_contract() -> None:
    head = run("my_head:MyHead", "--option", "temperature=0.2", "--dim", "32", "--frames", "5")
    assert (head.code, head.err) == (0, "")
    assert verdicts(head.out) == ["pass"] * 12
    assert "recall is chance on random features" in head.out
    aggregator = run("my_parts:MyAggregator", "--as", "aggregator", "--option", "width=5")
    assert aggregator.code == 0
    assert verdicts(aggregator.out) == ["pass"] * 12
    behind = run("my_head:MyHead", "--aggregator", "my_parts:MyAggregator")
    assert (behind.code, verdicts(behind.out)) == (0, ["pass"] * 12)


def test_a_broken_head_is_exit_code_2_with_what_to_do() -> None:
    done = run("tests.own_modules:PaddingLeaks")
    assert done.code == 2
    assert verdicts(done.out).count("FAIL") == 1
    assert done.out.splitlines()[-1].startswith("padded frames do not count: use the mask wherever")
    assert "error: head 'tests.own_modules:PaddingLeaks' breaks 1 of 12 rules" in done.err
    shapes = run("tests.own_modules:WrongShape")
    assert (shapes.code, verdicts(shapes.out)) == (2, ["FAIL"])


def test_a_leak_is_exit_code_3() -> None:
    done = run("tests.own_modules:KnowsTheRow")
    assert done.code == 3
    assert "recall is chance on random features: the head finds the true video" in done.out
    assert "knows which caption belongs to which video" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("my_haed:MyHead",), "did you mean my_head"),
        (("my_head:MyHead", "--as", "loss"), "unknown role 'loss'"),
        (("my_head:MyHead", "--option", "temperature"), "write key=value, such as heads=2"),
        (("my_head:MyHead", "--option", "a=1", "--option", "a=2"), "--option a stands twice"),
        (("my_head:MyHead", "--option", "a=[1"), "'[1' is no YAML value"),
        (("my_head:MyHead", "--option", "a=1"), "unexpected keyword argument 'a'"),
        (("my_parts:MyAggregator",), "forward of interaction 'my_parts:MyAggregator' has the sig"),
        (("my_head:MyHead", "--as", "aggregator"), "and is called as (frames, mask)"),
        (("my_head.MyHead",), "is not an import path"),
        (("pooled",), "is not an import path"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err


def test_modules_are_those_beside_params_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(EXAMPLES / "my_head.py", tmp_path / "mine" / "another.py")
    assert run("mine.another:MyHead", folder=tmp_path).code == 0
