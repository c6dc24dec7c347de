import io
import sys

import pytest

from gare_cache.project.progress import progress, quiet, say


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_say_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("runs", 2) as advance:
        advance(2)
    say("end")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("runs: 2 of 2 in ")
    assert lines[1:] == ["end"]


def test_a_bar_inside_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("runs", 2) as advance:
        with progress("train", 5) as inner:
            inner(5)
        with progress("[train again]", 5) as inner:
            inner(2)
        advance(2)
    shown = terminal.getvalue()
    assert "runs" in shown
    assert "2/2" in shown


def test_quiet_work_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quiet(), progress("runs", 2) as advance:
        advance(2)
        say("nothing")
    assert capsys.readouterr().err == ""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with quiet(), progress("runs", 2) as advance:
        advance(2)
    assert terminal.getvalue() == ""
    say("again")
    assert terminal.getvalue() == "again\n"
