import errno
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gare_cache.files import (
    append_line,
    canonical_digest,
    read_lines,
    replacing,
    write_json,
    write_text,
)


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        _fail_half_way(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_bytes_do_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": "é"})
    write_json(tmp_path / "b", {"a": "é", "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert canonical_digest({"b": 1, "a": 2}) == canonical_digest({"a": 2, "b": 1})
    assert canonical_digest([1, 2]) != canonical_digest([2, 1])


def _fail_half_way(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("new")
        raise RuntimeError("half way")


def test_many_writers_of_one_file_each_publish_a_whole_one(tmp_path: Path) -> None:
    # With one temporary name for all, 263 of 600 writes failed and 31 mixed files were published.
    path = tmp_path / "a.json"
    contents = [f"{number:03d}" * 20_000 for number in range(8)]
    seen = set()

    def write(number: int) -> None:
        write_text(path, contents[number % 8])
        seen.add(path.read_text())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_cut_at_the_line_feed_alone(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    lines = ["a\u2028b", "c\u0085d", "e\x0bf\x1cg", ""]
    for line in lines:
        append_line(path, line)
    assert read_lines(path) == lines


@pytest.mark.parametrize("before", [b"", b"whole\n", b"whole\n" + b"x" * 5000])
def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before + b"to")
    append_line(path, "next")
    assert read_lines(path) == (["whole", "next"] if before else ["next"])


_APPENDER = """
import sys
from pathlib import Path
from gare_cache.files import append_line
for number in range(100):
    append_line(Path(sys.argv[1]), f"{sys.argv[2]} {number} " + "x" * 5000)
"""


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    writers = [
        subprocess.Popen([sys.executable, "-c", _APPENDER, str(path), str(number)])
        for number in range(4)
    ]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    found = sorted(tuple(map(int, line.split()[:2])) for line in read_lines(path))
    assert found == [(writer, number) for writer in range(4) for number in range(100)]


def test_a_line_that_does_not_fit_is_an_error_and_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, "whole")
    child = os.fork()
    if child == 0:  # the limit of a file's size stands for a disk that takes a part of the line
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
        try:
            append_line(path, "x" * 100)
        except OSError as err:
            os._exit(0 if err.errno in (errno.ENOSPC, errno.EFBIG) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == b"whole\n"
