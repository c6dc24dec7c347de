import dataclasses
import json
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from gare_cache.cache import journal
from gare_cache.cache.journal import (
    RowOutcome,
    UnitRecord,
    WrittenOutcomes,
    append,
    examine,
    keep_whole_lines,
    read,
    rows_and_failed,
)
from gare_cache.errors import CacheError


def record(number: int, unit: int | None = None) -> UnitRecord:
    outcomes = [RowOutcome(8 * number + i, reason="Schlüssel\u2028fehlt") for i in range(8)]
    return UnitRecord(
        sequence=number,
        kind="video",
        unit=number if unit is None else unit,
        outcomes=outcomes,
        checksums={"video/frames": "00ff00ff"},
        seconds={"write": 0.5},
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "journal" / "units.jsonl"
    for number in range(4):
        append(path, record(number))
    return path


def without_checksums(line: bytes) -> bytes:
    fields = json.loads(line)
    del fields["after"], fields["line"]
    return json.dumps(fields, ensure_ascii=False).encode()


def test_every_flipped_bit_of_a_line_is_noticed(file: Path) -> None:
    lines = file.read_bytes().split(b"\n")
    for bit in range(8 * len(lines[1])):
        damaged = bytearray(lines[1])
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(b"\n".join([lines[0], bytes(damaged), *lines[2:]]))
        _, damage = examine(file.parents[1])
        assert damage, bit
        assert damage[0].number == 2
    file.write_bytes(b"\n".join(lines))
    assert read(file.parents[1]) == [record(number) for number in range(4)]


def test_lost_lines_are_noticed_unless_they_are_the_last(file: Path) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    for lost in range(3):
        file.write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
        (damage,) = examine(file.parents[1])[1]
        assert (damage.number, damage.problem) == (lost + 1, "records before this line are lost")
        with pytest.raises(CacheError, match=rf"units.jsonl:{lost + 1}: records before .*; run"):
            read(file.parents[1])
    # What is cut from the end is found by verification, in the tables and features.json.
    file.write_bytes(b"".join(lines[:3]))
    assert len(read(file.parents[1])) == 3


def test_the_whole_lines_of_a_damaged_file_are_kept(file: Path) -> None:
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([lines[0], b"x" + lines[1], *lines[3:]]))
    assert [d.number for d in examine(file.parents[1])[1]] == [2, 3]
    keep_whole_lines(file.parents[1])
    assert read(file.parents[1]) == [record(0), record(3)]
    content = file.read_bytes()
    keep_whole_lines(file.parents[1])
    assert file.read_bytes() == content
    append(file, record(4))
    assert len(read(file.parents[1])) == 3


def test_journals_of_earlier_versions_are_read_and_continued(file: Path) -> None:
    lines = file.read_bytes().split(b"\n")[:-1]
    old = [without_checksums(line) for line in lines]
    file.write_bytes(b"\n".join(old) + b"\n")
    append(file, record(4))
    assert read(file.parents[1]) == [record(number) for number in range(5)]
    file.write_bytes(b"\n".join([*old[:3], file.read_bytes().split(b"\n")[4]]) + b"\n")
    assert examine(file.parents[1])[1][0].number == 4


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[1]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"sequence": true}',
        without_checksums(journal._line(record(0), after=b"")).replace(b'"unit": 0', b'"unit": -1'),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal" / "units.jsonl"
    path.parent.mkdir()
    path.write_bytes(line + b"\n")
    with pytest.raises(CacheError, match=r"units.jsonl:1: the line is not a journal record"):
        read(tmp_path)


def with_checksum(fields: dict[str, object], after: bytes = b"") -> bytes:
    content = json.dumps({**fields, "after": journal._checksum(after)}).encode()
    return content[:-1] + f', "line": "{google_crc32c.value(content):08x}"}}'.encode()


def fields_of(number: int, **changed: object) -> dict[str, object]:
    fields = json.loads(without_checksums(journal._line(record(number), after=b"")))
    return {**fields, **changed}


REASONS = [
    None,
    "",
    '"}], "checksums": {"',
    '{"row": 7, "reason": null, "decoder": null}, {"row": 8, "reason": "x"',
    '\\", "reason": "\\\\',
    '"outcomes": [{"row": 9}',
]


def test_rows_and_states_are_those_of_the_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "units.jsonl"
    rows = [0, 10**17, 3, 256, 10, 9]
    written = [
        [
            RowOutcome(row, reason, "pyav", reason)
            for row, reason in zip(rows, REASONS, strict=True)
        ],
        [],
        [RowOutcome(5, digest="ab"), RowOutcome(6, "bad")],
        *([RowOutcome(row, reason)] for row, reason in zip(rows, REASONS, strict=True)),
    ]
    for number, outcomes in enumerate(written):
        append(path, UnitRecord(number, "text", number, outcomes, {"text/features": "0"}, {}))
    found = read(tmp_path)
    assert [list(record.outcomes) for record in found] == written
    for record, outcomes in zip(found, written, strict=True):
        assert len(record.outcomes) == len(outcomes)
        assert record.outcomes[:1] == outcomes[:1]
        columns = rows_and_failed(record.outcomes)
        expected = [outcome.reason is not None for outcome in outcomes]
        assert [column.tolist() for column in columns] == [[o.row for o in outcomes], expected]
    usual = [isinstance(record.outcomes, WrittenOutcomes) for record in found]
    assert usual == [False, True, True, True, True, False, False, True, False]


@pytest.mark.parametrize(
    "outcomes",
    [
        [{"row": 4}],
        [{"reason": "x", "row": 4}],
        [{"row": 4, "reason": None, "digest": "d"}, {"digest": "e", "row": 5}],
        [dict(reversed(RowOutcome(4, "x")._asdict().items()))],
    ],
)
def test_outcomes_of_another_form_are_read(tmp_path: Path, outcomes: list[dict[str, Any]]) -> None:
    path = tmp_path / "journal" / "units.jsonl"
    path.parent.mkdir()
    lines = [journal._line(record(0), after=b"")]
    lines.append(with_checksum(fields_of(1, outcomes=outcomes), after=lines[0]))
    lines.append(with_checksum(dict(reversed(fields_of(2).items())), after=lines[1]))
    path.write_bytes(b"\n".join([*lines, lines[0][:100]]))  # the last write was interrupted
    listed = [RowOutcome(**of) for of in outcomes]
    assert [list(r.outcomes) for r in read(tmp_path)] == [
        record(0).outcomes,
        listed,
        record(2).outcomes,
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"outcomes": [{"row": True, "reason": None}]},
        {"outcomes": [{"row": -1, "reason": None}]},
        {"outcomes": [{"row": 1.5, "reason": None}]},
        {"outcomes": [{"row": 10**30, "reason": None}]},
        {"outcomes": [{"reason": None}]},
        {"outcomes": [{"row": 0, "reason": None, "colour": None}], "checksums": []},
        {"outcomes": None},
        {"kind": "audio"},
        {"unit": True},
        {"sequence": -1},
        {"checksums": None},
        {"more": 1},
    ],
)
def test_a_line_with_its_checksum_may_be_no_record(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    path = tmp_path / "journal" / "units.jsonl"
    path.parent.mkdir()
    path.write_bytes(with_checksum(fields_of(0, **changed)) + b"\n")
    with pytest.raises(CacheError, match=r"units.jsonl:1: the line is not a journal record"):
        read(tmp_path)


def test_outcomes_that_cannot_be_parsed_are_named_when_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "units.jsonl"
    path.parent.mkdir()
    path.write_bytes(
        with_checksum(fields_of(0, outcomes=[{"row": 0, "reason": None, "x": 1}])) + b"\n"
    )
    (found,) = read(tmp_path)
    with pytest.raises(CacheError, match=r"units.jsonl:1: the line is not a journal record .*run"):
        found.outcomes[0]


def test_a_line_leaves_out_what_an_outcome_lacks_and_is_read_with_it_too(tmp_path: Path) -> None:
    path = tmp_path / "journal" / "units.jsonl"
    outcomes = [RowOutcome(0), RowOutcome(1, "bad"), RowOutcome(2, decoder="pyav", digest="ab")]
    written = dataclasses.replace(record(0), outcomes=outcomes)
    append(path, written)
    line = path.read_bytes()[:-1]
    fields = json.loads(line)
    assert fields["outcomes"] == [
        {"row": 0, "reason": None},
        {"row": 1, "reason": "bad"},
        {"row": 2, "reason": None, "decoder": "pyav", "digest": "ab"},
    ]
    assert read(tmp_path) == [written]
    fields["outcomes"] = [outcome._asdict() for outcome in outcomes]  # as earlier versions wrote
    del fields["line"]
    content = json.dumps(fields).encode()
    stored = f', "line": "{google_crc32c.value(content):08x}"}}\n'.encode()
    path.write_bytes(content[:-1] + stored)
    (found,) = read(tmp_path)
    assert found == written
    assert isinstance(found.outcomes, WrittenOutcomes)
