import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from gare_cache.cache import folders
from gare_cache.cache.folders import (
    cache_folders,
    folder_bytes,
    leftovers,
    pack,
    remove,
    summarise,
    unpack,
)
from gare_cache.cache.lock import whole_cache
from gare_cache.cache.reader import open_cache
from gare_cache.errors import CacheError, EnvironmentFailure
from tests.cache.made import IDENTITY, NAME, chunk_files, fill, make, source, writer

pytestmark = pytest.mark.usefixtures("small_units")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith("lock")
    }


def test_a_list_says_what_each_folder_is(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    with writer(tmp_path / "e-begun") as cache:
        fill(cache, range(3))
        cache.allocate("video", [source(8)])
    make(tmp_path / "f-damaged")
    chunk_files(tmp_path / "f-damaged")[0].unlink()
    (tmp_path / "no cache").mkdir()
    whole, begun, damaged = map(summarise, cache_folders(tmp_path))
    assert (whole.name, whole.dataset, whole.state) == (NAME, "d", "complete")
    assert whole.counts == "video 10 ok; text 10 ok"
    assert whole.sampling == "max_frames=3"
    assert whole.num_bytes == folder_bytes(tmp_path / NAME) > 1000
    assert (begun.state, begun.counts) == ("unfinished", "video 3 ok 1 pending; text ")
    assert damaged.state.startswith("unreadable:")
    assert "is missing, though the journal has it" in damaged.state
    with whole_cache(tmp_path / NAME):
        assert summarise(tmp_path / NAME).state == f"being written by {os.getpid()}"
    assert cache_folders(tmp_path / "nowhere") == []


def test_what_may_go_is_told_with_its_reason_and_nothing_in_use_is(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    left = tmp_path / NAME / "features.zarr/video/frames/c/0/0/0.partial"
    left.write_bytes(b"half")
    make(tmp_path / "d-old")
    make(tmp_path / "d-busy")
    make(tmp_path / "d-unpacking.partial")
    (tmp_path / "notes").mkdir()
    with whole_cache(tmp_path / "d-busy"):
        found = dict(leftovers(tmp_path, {NAME}))
        with pytest.raises(CacheError, match=f"being written by process {os.getpid()}"):
            remove(tmp_path / "d-busy")
    assert found == {
        left: "a killed writer left it",
        tmp_path / "d-old": "no features.json names it",
        tmp_path / "d-unpacking.partial": "an unpacking that was interrupted",
    }
    size = folder_bytes(tmp_path / "d-old")
    assert [remove(path) for path in (left, tmp_path / "d-old")] == [4, size]
    assert not (tmp_path / "d-old").exists()
    assert not left.exists()
    assert (tmp_path / "notes").is_dir()


def test_a_packed_cache_is_unpacked_to_the_same_files(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    pack(tmp_path / NAME, tmp_path / "one.tar")
    for path in (tmp_path / NAME).rglob("*"):
        os.utime(path, (1, 1))
    pack(tmp_path / NAME, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}

    assert unpack(tmp_path / "one.tar", tmp_path / "root") == tmp_path / "root" / NAME
    (tmp_path / NAME / "owner.json").unlink()  # it stays with the project
    assert files(tmp_path / "root" / NAME) == files(tmp_path / NAME)
    assert open_cache(tmp_path / "root" / NAME).counts("video")["ok"] == 10
    with pytest.raises(CacheError, match=r"exists and is not overwritten; move it away"):
        unpack(tmp_path / "one.tar", tmp_path / "root")
    with pytest.raises(CacheError, match=r"one.tar exists; choose another name"):
        pack(tmp_path / NAME, tmp_path / "one.tar")


def test_only_a_finished_whole_cache_is_packed(tmp_path: Path) -> None:
    with writer(tmp_path / "begun") as cache:
        fill(cache, range(3))
    with pytest.raises(CacheError, match=r"begun is not finished; run `gare-cache extract`"):
        pack(tmp_path / "begun", tmp_path / "x.tar")
    make(tmp_path / NAME)
    path = chunk_files(tmp_path / NAME)[0]
    path.write_bytes(b"\1" * path.stat().st_size)
    with pytest.raises(CacheError, match=r"is damaged: .*its checksum is"):
        pack(tmp_path / NAME, tmp_path / "x.tar")
    with (
        whole_cache(tmp_path / NAME),
        pytest.raises(CacheError, match=r"being written by process"),
    ):
        pack(tmp_path / NAME, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def archive(path: Path, *names: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "/etc/passwd"
            member.size = 1 if kind == tarfile.REGTYPE else 0
            tar.addfile(member, io.BytesIO(b"x") if member.size else None)
    return path


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["../outside"], tarfile.REGTYPE),
        ([f"{NAME}/../../outside"], tarfile.REGTYPE),
        (["/outside/file"], tarfile.REGTYPE),
        (["outside"], tarfile.REGTYPE),
        ([f"{NAME}/link"], tarfile.SYMTYPE),
        ([f"{NAME}/link"], tarfile.LNKTYPE),
        ([f"{NAME}/pipe"], tarfile.FIFOTYPE),
        ([f"{NAME}/folder"], tarfile.DIRTYPE),
        ([f"{NAME}/twice", f"{NAME}/twice"], tarfile.REGTYPE),
        ([f"{NAME}/a", "d-0123456789ab/b"], tarfile.REGTYPE),
        (["name without identity/a"], tarfile.REGTYPE),
        ([], tarfile.REGTYPE),
    ],
)
def test_archives_that_reach_outside_or_are_no_cache_are_refused(
    tmp_path: Path, names: list[str], kind: bytes
) -> None:
    file = archive(tmp_path / "x.tar", *names, kind=kind)
    with pytest.raises(CacheError, match=r"x.tar is refused: .*gare-cache cache pack"):
        unpack(file, tmp_path / "deep" / "root")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["x.tar"]


def test_an_archive_that_is_damaged_leaves_nothing(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    pack(tmp_path / NAME, tmp_path / "x.tar")
    content = bytearray((tmp_path / "x.tar").read_bytes())
    with tarfile.open(tmp_path / "x.tar") as tar:
        chunk = next(m for m in tar.getmembers() if "/video/frames/c/" in m.name)
    content[chunk.offset_data] ^= 1
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(CacheError, match=r"x.tar is damaged and was not unpacked: .*checksum"):
        unpack(tmp_path / "x.tar", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    (tmp_path / "x.tar").write_bytes(content[:3000])
    with pytest.raises(CacheError, match=r"x.tar"):
        unpack(tmp_path / "x.tar", tmp_path / "root")
    (tmp_path / "x.tar").write_bytes(b"no archive")
    with pytest.raises(CacheError, match=r"x.tar is not a packed cache"):
        unpack(tmp_path / "x.tar", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []


def test_an_archive_under_the_name_of_another_extraction_is_refused(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    other = tmp_path / "d-0123456789ab"
    shutil.copytree(tmp_path / NAME, other)
    with pytest.raises(CacheError, match="it holds extraction"):
        pack(other, tmp_path / "x.tar")
    with (tmp_path / "x.tar").open("xb") as stream:
        folders._write_tar(stream, other)
    with pytest.raises(CacheError, match=r"d-0123456789ab is not the name of the extraction"):
        unpack(tmp_path / "x.tar", tmp_path / "root")
    assert IDENTITY["sampling"] == open_cache(other).attributes["identity"]["sampling"]


def test_an_archive_that_announces_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    """A sparse member of no bytes would be written as large as it says."""
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo(f"{NAME}/features.zarr/video/frames/c/0/0/0")
        size = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "3000000000"}
        member.pax_headers = {**size, "GNU.sparse.map": "0,0,3000000000,0"}
        tar.addfile(member)
    with pytest.raises(CacheError, match=r"is refused: member .* is not a distinct, plain file"):
        unpack(file, tmp_path / "root")
    make(tmp_path / NAME)
    pack(tmp_path / NAME, tmp_path / "y.tar")
    (tmp_path / "y.tar").write_bytes((tmp_path / "y.tar").read_bytes()[:-20_000])
    with pytest.raises(CacheError, match=r"y.tar is (damaged|not a packed cache)"):
        unpack(tmp_path / "y.tar", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_archive_larger_than_the_free_disk_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / NAME)
    pack(tmp_path / NAME, tmp_path / "x.tar")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(EnvironmentFailure, match=r"x.tar needs [\d,]+ bytes, and .* 1,000 free"):
        unpack(tmp_path / "x.tar", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_an_archive_with_a_file_that_no_cache_has_is_refused(tmp_path: Path) -> None:
    file = archive(tmp_path / "x.tar", f"{NAME}/features.zarr/zarr.json", f"{NAME}/run.py")
    with pytest.raises(CacheError, match=r"member '.*/run.py' is not a distinct, plain file of"):
        unpack(file, tmp_path / "root")
