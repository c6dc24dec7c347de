import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from gare_cache.errors import EnvironmentFailure, LimitExceeded, UnreadableFile
from gare_cache.files import (
    append_line,
    canonical_digest,
    creating_folder,
    read_json,
    read_json_lines,
    read_lines,
    read_parquet,
    replacing,
    write_json,
    write_json_lines,
    write_parquet,
    write_record,
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


def test_a_record_is_read_without_its_digest_and_damage_is_found(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    content = {"a": [1, 2.5, None], "b": {"1": "ü"}, "n": 3}
    write_record(path, {**content, "b": {1: "ü"}, "a": [1, 2.5, float("nan")]})
    assert read_json(path) == content
    text = path.read_text()
    path.write_text(text.replace("2.5", "2.6"))
    with pytest.raises(UnreadableFile, match=r"record.json is damaged, or was changed by hand"):
        read_json(path)
    # Files of earlier versions, and of other programs, have no digest.
    path.write_text(json.dumps(content))
    assert read_json(path) == content


def test_every_line_of_records_has_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    records = [{"epoch": 1, "name": "a\u2028b"}, {"epoch": 2}]
    write_json_lines(path, records)
    assert read_json_lines(path) == records
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 3'))
    with pytest.raises(UnreadableFile, match=r"log.jsonl:2 is damaged"):
        read_json_lines(path)


def test_a_flipped_bit_of_a_parquet_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"id": [f"v{n}" for n in range(50)], "rank": list(range(50))})
    write_parquet(path, table)
    content = path.read_bytes()
    for place in range(8, content.index(b"v49"), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        try:
            found = read_parquet(path)
        except UnreadableFile:
            continue
        assert found == table, place
    path.write_bytes(content)
    assert read_parquet(path) == table


@pytest.mark.parametrize("bit", [1, 7])
def test_a_flipped_bit_in_the_footer_of_a_parquet_file_ends_in_an_error_of_its_own(
    tmp_path: Path, bit: int
) -> None:
    """Bit 1 makes a column's histogram and its schema contradict each other, bit 7 spoils names."""
    path = tmp_path / "t.parquet"
    write_parquet(path, pa.table({"id": ["a", None], "lists": [[1.0], [2.0, 3.0]]}))
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    damaged = 0
    for place in range(footer, len(content)):
        flipped = content[place] ^ (1 << bit)
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        try:
            read_parquet(path)
        except (UnreadableFile, LimitExceeded):
            damaged += 1
    assert damaged > 100


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_kept(tmp_path: Path) -> None:
    left = tmp_path / "a.json.0123456789abcdef.partial"
    left.write_text("x")
    other = tmp_path / "b.json.0123456789abcdef.partial"
    other.write_text("x")
    with replacing(tmp_path / "a.json") as living:
        assert not left.exists()
        write_text(tmp_path / "a.json", "1")
        assert living.exists()
        living.write_text("2")
    assert (tmp_path / "a.json").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", other.name]


def test_a_folder_appears_whole_and_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "out.0123456789abcdef.partial"
    left.mkdir()
    (left / "file").write_text("x")
    with creating_folder(tmp_path / "out") as living:
        assert not left.exists()
        with creating_folder(tmp_path / "out") as other:
            assert living.exists()
            (other / "deep").mkdir()
            (other / "deep" / "file").write_text("first")
        assert (tmp_path / "out" / "deep" / "file").read_text() == "first"
        (tmp_path / "out").rename(tmp_path / "first")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(FileNotFoundError), creating_folder(tmp_path / "third") as partial:
        (partial / "lacking" / "file").write_text("x")
    assert {path.name for path in tmp_path.iterdir()} == {"first", "out"}


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path / "inner").mkdir(parents=True)])
def test_a_folder_replaces_nothing_that_appeared_meanwhile(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    with (
        pytest.raises(EnvironmentFailure, match="appeared while it was being written; remove it"),
        creating_folder(tmp_path / "out"),
    ):
        make(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
