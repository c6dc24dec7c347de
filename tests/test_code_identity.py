"""A result's identity covers all code that decides it, and nothing else."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gare_cache
from gare_cache.code_identity import NO_EFFECT, code_closure, code_digest, import_closure

PACKAGE = Path(gare_cache.__file__).parent
ENTRIES = ("gare_cache.stages.train", "gare_cache.stages.evaluate")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(PACKAGE, folder / "gare_cache", ignore=ignored)
    return folder


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_edit_of_any_module_of_the_closure_changes_the_digest(copied: Path, entry: str) -> None:
    first = code_digest(entry, folder=copied)
    assert first == code_digest(entry)
    digests = {first}
    files = code_closure(entry, folder=copied)
    for file in files.values():
        source = file.read_bytes()
        file.write_bytes(source + b"\n# edited\n")
        digests.add(code_digest(entry, folder=copied))
        file.write_bytes(source)
    assert len(digests) == len(files) + 1
    assert code_digest(entry, folder=copied) == first


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("module", NO_EFFECT)
def test_an_edit_of_a_module_without_effect_leaves_the_digest(
    copied: Path, entry: str, module: str
) -> None:
    first = code_digest(entry, folder=copied)
    base = copied.joinpath(*module.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    source = file.read_bytes()
    file.write_bytes(source + b"\n# edited\n")
    assert code_digest(entry, folder=copied) == first
    file.write_bytes(source)


def test_what_decides_a_training_is_in_its_closure() -> None:
    closure = code_closure("gare_cache.stages.train")
    assert {"gare_cache.own", "gare_cache.reproducibility", "gare_cache.manifest.tables"} <= set(
        closure
    )
    for module in ("stages.train", "cache.reader", "heads.gap", "losses.sinkhorn", "training.loop"):
        assert f"gare_cache.{module}" in closure
    assert "gare_cache.reports.page" not in closure


def test_everything_that_a_stage_imports_is_in_its_closure_or_without_effect() -> None:
    """Hold the walk over the sources against what Python really imports."""
    code = "import json, sys; import {}; print(json.dumps(sorted(sys.modules)))"
    for entry in ENTRIES:
        command = [sys.executable, "-c", code.format(entry)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        loaded = {name for name in json.loads(done.stdout) if name.split(".")[0] == "gare_cache"}
        assert loaded - set(code_closure(entry)) <= set(NO_EFFECT)


def test_the_walk_follows_every_form_of_import_and_none_to_the_outside(tmp_path: Path) -> None:
    sources = {
        "a": "import b\nimport outside\nfrom p import q",
        "b": "def late():\n    from p.r import x",
        "p/__init__": "",
        "p/q": "from . import s\nfrom .t import y",
        "p/r": "from .u import v",
        "p/u/__init__": "",
        "p/u/v": "from .. import w\nfrom ..t import z",
        "p/w": "",
        "p/s": "import a",
        "p/t": "",
        "unrelated": "",
    }
    for name, source in sources.items():
        file = tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    def locate(name: str) -> dict[str, Path]:
        base = tmp_path.joinpath(*name.split("."))
        files = filter(Path.is_file, (base.with_suffix(".py"), base / "__init__.py"))
        return dict(zip([name], files, strict=False))

    closure = import_closure(["a"], locate)
    inner = ("p.u", "p.u.v", "p.w")
    assert set(closure) == {"a", "b", "p", "p.q", "p.r", "p.s", "p.t", *inner}


def test_every_module_without_effect_exists_and_has_a_reason() -> None:
    for module, reason in NO_EFFECT.items():
        base = PACKAGE.parent.joinpath(*module.split("."))
        assert base.is_dir() or base.with_suffix(".py").is_file()
        assert len(reason.split()) >= 4
