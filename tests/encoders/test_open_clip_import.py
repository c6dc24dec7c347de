import importlib
import logging
import subprocess
import sys
from types import ModuleType

import pytest

from gare_cache.encoders import open_clip_import
from gare_cache.encoders.open_clip_import import import_open_clip
from gare_cache.errors import EnvironmentFailure


def test_a_fresh_process_can_import_and_encode() -> None:
    code = (
        "from gare_cache.encoders.open_clip_import import import_open_clip\n"
        "first, again = import_open_clip(), import_open_clip()\n"
        "assert first is again\n"
        "import torchvision\n"
        "print(len(first.list_models()) > 100)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_only_the_missing_operator_is_met_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, errors, declared = ModuleType("open_clip"), [], []
    errors.append(RuntimeError("operator torchvision::nms does not exist"))

    def import_module(name: str) -> ModuleType:
        if errors:
            raise errors.pop()
        return module

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(open_clip_import, "_declare_operators", lambda: declared.append(1))
    monkeypatch.setattr(open_clip_import, "_drop_modules", lambda: None)
    with caplog.at_level(logging.INFO):
        assert import_open_clip() is module
    assert declared == [1]
    assert "operator torchvision::nms does not exist" in caplog.text


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operator torchvision::roi_align does not exist"), ImportError("no ftfy")],
)
def test_every_other_error_is_the_environments(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def import_module(name: str) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(EnvironmentFailure, match=str(error)):
        import_open_clip()
