from pathlib import Path
from typing import Any

import pytest

from gare_cache.cache import journal
from gare_cache.cache.folders import leftovers, of_other_projects, pack, unpack
from gare_cache.cache.identity import owner_id, project_owner
from gare_cache.cache.owner import folder_for, read_owner
from gare_cache.cache.reader import open_cache
from gare_cache.errors import CacheError
from tests.cache.made import IDENTITY, NAME, caption, fill, fill_captions, make, source, writer

pytestmark = pytest.mark.usefixtures("small_units")


def place(root: Path, project: Path, videos: list[Any], captions: Any = ()) -> tuple[Path, str]:
    return folder_for(root, "d", IDENTITY, project, {"video": videos, "text": list(captions)})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a cache of project a."""
    with writer(tmp_path / NAME, owner=project_owner(tmp_path / "a")) as cache:
        fill(cache, range(6))
        fill_captions(cache, range(6))
    return tmp_path


def test_a_project_keeps_its_id_where_its_folder_is_moved(tmp_path: Path) -> None:
    assert owner_id(tmp_path / "a") == ""
    first = project_owner(tmp_path / "a")
    assert len(first.id) == 32
    assert project_owner(tmp_path / "a") == first != project_owner(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    assert project_owner(tmp_path / "c").id == owner_id(tmp_path / "c") == first.id
    assert [path.name for path in (tmp_path / "c/.gare").iterdir()] == ["id"]


def test_projects_whose_items_agree_share_a_folder(root: Path) -> None:
    before = open_cache(root / NAME)
    rows = {kind: len(table.sources) for kind, table in before.tables.items()}
    assert place(root, root / "b", [source(3), source(8)]) == (root / NAME, "")
    with writer(root / NAME, owner=project_owner(root / "b")) as cache:
        assert not cache.owned
        fill(cache, [3, *range(6, 9)])
    after = open_cache(root / NAME)
    assert after.content_digest != before.content_digest
    # The last unit of the first project's rows was written again, for the second one's.
    assert after.digest_of(rows) == before.content_digest
    assert read_owner(root / NAME) == project_owner(root / "a")


@pytest.mark.parametrize(
    ("videos", "captions", "said"),
    [
        ([source(3, size=9)], [], "in which 1 video has another file (first: 'v3')"),
        ([], [{**caption(2), "caption": "x"}], "1 caption has another sentence (first: 'v2#0')"),
    ],
)
def test_a_project_whose_items_differ_gets_a_folder_of_its_own(
    root: Path, videos: Any, captions: Any, said: str
) -> None:
    digest = open_cache(root / NAME).content_digest
    folder, note = place(root, root / "b", videos, captions)
    id_ = owner_id(root / "b")
    assert folder == root / f"d-{id_[:8]}-{NAME[2:]}"
    assert f"belongs to the project {root / 'a'}" in note
    assert said in note
    with writer(folder, owner=project_owner(root / "b")) as cache:
        cache.allocate("video", videos)
    assert open_cache(root / NAME).content_digest == digest
    # From then on it is the project's, whatever its items.
    assert place(root, root / "b", []) == (folder, "")


def test_the_owner_may_change_an_item_which_others_notice(root: Path) -> None:
    rows = {kind: len(table.sources) for kind, table in open_cache(root / NAME).tables.items()}
    digest = open_cache(root / NAME).digest_of(rows)
    changed = [source(3, size=9)]
    assert place(root, root / "a", changed) == (root / NAME, "")
    with writer(root / NAME, owner=project_owner(root / "a")) as cache:
        assert cache.owned
        assert cache.allocate("video", changed) == [6]
    assert open_cache(root / NAME).digest_of(rows) != digest


def test_items_that_came_to_differ_in_between_are_refused(root: Path) -> None:
    with (
        writer(root / NAME, owner=project_owner(root / "b")) as cache,
        pytest.raises(CacheError, match=r"belongs to the project .*/a, .*; run the command again"),
    ):
        cache.allocate("video", [source(3, size=9)])
    assert len(open_cache(root / NAME).tables["video"].sources) == 6


def test_a_cache_without_an_owner_is_taken(root: Path) -> None:
    (root / NAME / "owner.json").unlink()
    assert place(root, root / "b", [source(3, size=9)]) == (root / NAME, "")
    with writer(root / NAME, owner=project_owner(root / "b")) as cache:
        assert cache.owned
    (root / NAME / "owner.json").write_text("[]")
    with pytest.raises(CacheError, match=r"owner.json is damaged .*; delete it"):
        place(root, root / "b", [])


def test_a_packed_cache_has_no_owner(tmp_path: Path) -> None:
    make(tmp_path / NAME)
    pack(tmp_path / NAME, tmp_path / "x.tar")
    assert read_owner(unpack(tmp_path / "x.tar", tmp_path / "root")) is None


def test_caches_of_other_projects_are_no_leftovers(root: Path) -> None:
    others = of_other_projects(root, owner_id(root / "b"))
    assert others == {root / NAME: str(root / "a")}
    assert of_other_projects(root, owner_id(root / "a")) == {}
    assert [path for path, _ in leftovers(root, set())] == [root / NAME]


def test_a_record_of_a_later_project_does_not_hide_a_rewritten_row(root: Path) -> None:
    """A dropped and rewritten unit of the first project changes its digest as it did before."""
    rows = {"video": 6, "text": 6}
    with writer(root / NAME, owner=project_owner(root / "b")) as cache:
        fill(cache, range(6, 8))
    digest = open_cache(root / NAME).digest_of(rows)  # type: ignore[arg-type]
    record = journal.read(root / NAME)[1]
    later = {**record.checksums, "video/frames": "00000000"}
    again = journal.UnitRecord(90, "video", 1, record.outcomes, later, {})
    journal.append(root / NAME / "journal/units.jsonl", again)
    cache_ = open_cache(root / NAME)
    assert cache_.digest_of(rows) != digest  # type: ignore[arg-type]
