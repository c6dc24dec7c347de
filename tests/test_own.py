import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from gare_cache import own
from gare_cache.errors import ConfigError
from gare_cache.own import (
    import_own,
    own_digests,
    own_names,
    require_signature,
    require_trusted,
    require_unchanged,
    split_own,
    use_project,
)


@pytest.fixture(autouse=True)
def _no_trace(tmp_path: Path) -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    own._project.clear()
    for name in set(sys.modules) - modules:
        own._imported.pop(name, None)
        del sys.modules[name]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_a_class_of_a_module_beside_the_settings(tmp_path: Path) -> None:
    write(tmp_path / "own_a.py", "class Head: pass")
    write(tmp_path / "own_b/deep/mod.py", "def aggregate(): return 7")
    use_project(tmp_path, ["own_a:Head"])
    assert import_own("own_a:Head", what="head").__name__ == "Head"
    assert import_own("own_b.deep.mod:aggregate", what="aggregator")() == 7


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("own_a.Head", r"'own_a.Head' is not an import path; write module:name"),
        ("own_a:", r"not an import path"),
        (":Head", r"not an import path"),
        ("own_a.py:Head", r"there is no module 'own_a.py'"),
        ("own/a:Head", r"not an import path"),
        ("own_a:Head.x", r"not an import path"),
        ("own_x:Head", r"head 'own_x:Head': there is no module 'own_x' in {folder} .*mean own_a"),
        ("zzz.mod:Head", r"no module 'zzz' in {folder} \(the folder of params.yaml.*install it"),
        ("own_a:Haed", r"{folder}/own_a.py defines no 'Haed'; did you mean Head\?"),
        ("own_a:zzz", r"defines no 'zzz'; check the name after the colon"),
        ("own_a:WIDTH", r"'own_a:WIDTH' is 3, of type int, and cannot be called"),
        ("own_others:Head", r"'own_others:Head' is defined in own_a, not in own_others"),
        ("own_needs:Head", r"it imports 'not_there_at_all', which does not exist"),
        ("own_fails:Head", r"fails at {folder}/own_fails.py:2 with ZeroDivisionError: division"),
        (
            "own_syntax:Head",
            r"importing own_syntax fails with SyntaxError: .*own_syntax.py, line 1",
        ),
    ],
)
def test_every_fault_says_what_is_wrong(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path / "own_a.py", "WIDTH = 3\nclass Head: pass")
    write(tmp_path / "own_needs.py", "import not_there_at_all")
    write(tmp_path / "own_fails.py", "x = 0\nHead = 1 / x")
    write(tmp_path / "own_syntax.py", "class")
    write(tmp_path / "own_others.py", "from own_a import Head")
    use_project(tmp_path, [path])
    with pytest.raises(ConfigError, match=message.format(folder=tmp_path)):
        import_own(path, what="head")


def test_another_projects_module_of_the_same_name_is_not_taken_for_this_ones(
    tmp_path: Path,
) -> None:
    for number in "12":
        write(tmp_path / number / "own_a.py", f"import own_part\ndef which(): return {number}")
        write(tmp_path / number / "own_part.py", f"NUMBER = {number}")
        use_project(tmp_path / number, ["own_a:which"])
        assert import_own("own_a:which", what="head")() == int(number)
        assert int(number) == sys.modules["own_part"].NUMBER
    assert sys.path.count(str(tmp_path / "1")) == 0
    use_project(tmp_path, ["own_a:which"])
    with pytest.raises(ConfigError, match="there is no module 'own_a'"):
        import_own("own_a:which", what="head")


def test_code_that_changes_is_imported_anew_and_has_another_digest(tmp_path: Path) -> None:
    file = write(tmp_path / "own_a.py", "import own_part\ndef f(): return own_part.VALUE")
    part = write(tmp_path / "own_part.py", "VALUE = 1")
    write(tmp_path / "own_unrelated.py", "")
    use_project(tmp_path, ["own_a:f"])
    settings = {"head": {"aggregator": {"name": "own_a:f", "options": None}}}

    def found() -> tuple[int, str]:
        (digest,) = own_digests(settings).values()
        return import_own("own_a:f", what="head")(), digest

    first = found()
    assert found() == first
    write(tmp_path / "own_unrelated.py", "changed = True")
    assert found() == first
    write(part, "VALUE = 22")
    second = found()
    assert (second[0], second[1] != first[1]) == (22, True)
    write(part, "VALUE = 1")
    assert found() == first
    write(file, "import own_part\ndef f(): return own_part.VALUE  # the same value")
    assert found()[1] != first[1]
    require_unchanged(settings, own_digests(settings), where="x")
    with pytest.raises(ConfigError, match=r"code of 'own_a:f' has changed since head.st was"):
        require_unchanged(settings, {"own_a:f": first[1]}, where="head.st")
    with pytest.raises(ConfigError, match=r"has changed since head.st was"):
        require_unchanged(settings, {}, where="head.st")


def test_the_digest_covers_a_package_and_does_not_depend_on_where_it_lies(tmp_path: Path) -> None:
    digests = []
    for place in ("here", "there"):
        folder = tmp_path / place
        write(folder / "own_pkg/__init__.py", "")
        write(folder / "own_pkg/mod.py", "from . import layers\nfrom own_part import g\nf = len")
        write(folder / "own_pkg/layers.py", "")
        write(folder / "own_part.py", "g = 1")
        use_project(folder, ["own_pkg.mod:f"])
        digests.append(own_digests([{"name": "own_pkg.mod:f"}]))
    assert digests[0] == digests[1]
    write(folder / "own_pkg/layers.py", "x = 1")
    changed = own_digests([{"name": "own_pkg.mod:f"}])
    write(folder / "own_part.py", "g = 2")
    again = own_digests([{"name": "own_pkg.mod:f"}])
    assert len({str(one) for one in (digests[0], changed, again)}) == 3


def test_names_in_settings() -> None:
    settings = {
        "head": {"aggregator": {"name": "a:B", "options": {"file": "x:y"}}, "gap": None},
        "normalisers": [{"name": "csls"}, {"name": "c.d:e"}],
    }
    assert list(own_names(settings)) == ["a:B", "c.d:e"]
    assert split_own("c.d:e") == ("c.d", "e")
    assert own_digests({"name": "mean"}) == {}


class Part:
    def __init__(self, dim: int, max_frames: int, heads: int = 1) -> None:
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 3}, r"options of head 'm:P' hold 'dim', which gare-cache passes itself"),
        ({"width": 3}, r"\(dim=..., max_frames=..., width=...\): got an unexpected keyword"),
    ],
)
def test_signatures(options: dict[str, int], message: str) -> None:
    given = {"what": "head", "keywords": ("dim", "max_frames")}
    require_signature(Part, "m:P", options={"heads": 2}, **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        require_signature(Part, "m:P", options=options, **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"missing a required argument: 'max_frames'"):
        require_signature(Part, "m:P", what="head", keywords=("dim",), options={})


def test_the_console_script_finds_them_from_any_folder(tmp_path: Path) -> None:
    write(tmp_path / "project/own_a.py", "def f(): return 'found'")
    code = (
        "from pathlib import Path; from gare_cache.own import *;"
        "use_project(Path('project'), ['own_a:f']); import os; os.chdir('/');"
        "print(import_own('own_a:f', what='head')())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout.strip(), done.stderr) == ("found", "")


def test_a_stray_file_never_stands_for_an_installed_package(tmp_path: Path) -> None:
    """A stray open_clip.py beside params.yaml was executed."""
    write(tmp_path / "safetensors.py", "raise SystemExit('executed')")
    write(tmp_path / "own_a.py", "import safetensors\ndef f(): return safetensors.__file__")
    code = (
        "from pathlib import Path; import sys; from gare_cache.own import *;"
        "use_project(Path('.')); assert str(Path.cwd()) not in sys.path;"
        "use_project(Path('.'), ['own_a:f']); sys.modules.pop('safetensors', None);"
        "print(import_own('own_a:f', what='head')())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert str(tmp_path) not in done.stdout


def test_what_a_file_names_is_imported_only_if_the_settings_name_it(tmp_path: Path) -> None:
    named = {"head": {"aggregator": {"name": "own_a:Head"}}}
    use_project(tmp_path)
    with pytest.raises(ConfigError, match=r"x.st names 'own_a:Head', which params.yaml does not"):
        require_trusted(named, where="x.st")
    use_project(tmp_path, ["own_a:Head"])
    require_trusted(named, where="x.st")
    with pytest.raises(ConfigError, match=r"names 'b:C'.*give --trust, or trust=True in Python"):
        require_trusted({"head.aggregator.name": "b:C"}, where="x.st")
    use_project(tmp_path, trust=True)
    require_trusted({"head.aggregator.name": "b:C"}, where="x.st")
