"""Searching a small real project, with and without a trained head."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gare_cache.api import load_index, load_run
from gare_cache.errors import CacheError, ConfigError, DecodeError, FingerprintMismatch
from gare_cache.search import calibration, choice, encoded, opening, qdrant_store, searcher
from gare_cache.search.choice import StoreChoice
from gare_cache.search.encoded import EncodedGallery
from gare_cache.search.gallery import GalleryVideos
from gare_cache.search.hits import SearchResult
from gare_cache.search.query import make_query
from gare_cache.search.searcher import Searcher, Wanted
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.search import project_searcher
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, make_tiny_encoder, workspace, write_video

SENTENCE = "a blocks number 1 of test"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("search") / "project", tiny_encoder_dir)
    change_params(folder, extract__max_failed_percent=50.0)
    (folder / "videos/val/val2.mp4").write_bytes(b"no video")
    for stage in (prepare, extract, train, evaluate):
        stage(workspace(folder))
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    shutil.copytree(finished, tmp_path / "project")
    return tmp_path / "project"


def open_(project: Path, **options: bool) -> Searcher:
    return project_searcher(workspace(project), device="cpu", **options)


def test_the_order_is_that_of_the_heads_exact_scores(project: Path) -> None:
    run = load_run(project / "outputs", device="cpu")
    expected = run.score([SENTENCE], run.video_ids())[0]
    hits = open_(project).search(SENTENCE).hits
    by_id = dict(zip(run.video_ids(), expected.tolist(), strict=True))
    assert [hit.video_id for hit in hits] == sorted(by_id, key=by_id.__getitem__, reverse=True)[:10]
    assert [hit.score for hit in hits] == pytest.approx(
        [by_id[hit.video_id] for hit in hits], abs=1e-5
    )
    assert [hit.rank for hit in hits] == list(range(1, 11))
    assert hits[0].percentile == pytest.approx(100 * 12 / 13)
    assert run.search(SENTENCE) == hits


def test_padding_counts_as_in_evaluation_where_the_head_counts_it(project: Path) -> None:
    """The frames were padded to the longest video of the shortlist, not to the head's slots."""
    for name in ("test0", "train1", "train5"):
        write_video(project / f"videos/{name[:-1]}/{name}.mp4", seed=7, num_frames=2)
    change_params(project, head__reference_padding=True)
    for stage in (prepare, extract, train):
        stage(workspace(project))
    run = load_run(project / "outputs", device="cpu")
    short = ["test0", "train1"]
    expected = dict(zip(short, run.score([SENTENCE], short)[0].tolist(), strict=True))
    for hit in open_(project).search(SENTENCE, Wanted(ids=short)).hits:
        assert hit.score == pytest.approx(expected[hit.video_id], abs=1e-6)


def test_a_hit_names_its_file_and_a_moment_in_it(project: Path) -> None:
    for hit in open_(project).search(SENTENCE, Wanted(top=3)).hits:
        assert hit.path is not None
        assert hit.path.is_file()
        start, best, end = hit.start, hit.best_time, hit.end
        assert None not in (start, best, end)
        assert 0 <= start <= best <= end <= 2.25  # type: ignore[operator]


def test_videos_without_features_are_counted_and_not_shown(project: Path) -> None:
    result = open_(project).search(SENTENCE, Wanted(top=99))
    assert result.searched == len(result.hits) == 13
    assert "val/val2" not in {hit.video_id for hit in result.hits}
    assert result.notes[-1] == "1 listed video has no features and cannot be found"


@pytest.mark.parametrize("zero_shot", [False, True])
def test_a_shortlist_of_everything_finds_what_full_scoring_finds(
    project: Path, zero_shot: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = open_(project, zero_shot=zero_shot).search(SENTENCE)
    monkeypatch.setattr(searcher, "WHOLE", 4)
    monkeypatch.setattr(opening, "WHOLE", 4)
    monkeypatch.setattr(calibration, "_FEWEST_QUERIES", 2)
    short = open_(project, zero_shot=zero_shot).search(SENTENCE)
    assert [h.video_id for h in short.hits] == [h.video_id for h in full.hits]
    assert short.reranked == 13  # the least K is 64, and there are 13 videos


@pytest.mark.parametrize("store", ["faiss", "qdrant"])
def test_every_store_finds_what_full_scoring_finds(
    project: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss" if store == "faiss" else "qdrant_client")
    full = open_(project).search(SENTENCE)
    monkeypatch.setattr(searcher, "WHOLE", 4)
    monkeypatch.setattr(opening, "WHOLE", 4)
    monkeypatch.setattr(calibration, "_FEWEST_QUERIES", 2)
    url = "http://server" if store == "qdrant" else None
    monkeypatch.setattr(
        qdrant_store, "_connect", lambda qdrant, url: qdrant.QdrantClient(":memory:")
    )
    found = project_searcher(workspace(project), device="cpu", store=StoreChoice(store, url=url))
    assert found.search(SENTENCE).hits == full.hits
    assert found.search(SENTENCE, Wanted(split="train")).searched == 8
    note = found.shortlist_note()
    assert note is not None
    assert "of full scoring for 100.0 % of" in note


def test_programs_choose_the_store(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    run, faiss = load_run(project / "outputs", device="cpu"), StoreChoice("faiss", nprobe=1)
    full = run.search(SENTENCE)
    monkeypatch.setattr(searcher, "WHOLE", 4)
    monkeypatch.setattr(opening, "WHOLE", 4)
    assert run.search(SENTENCE, store=faiss) == full
    assert run.open_searcher(faiss) is run.open_searcher(StoreChoice("faiss", nprobe=1))
    assert run.searcher is run.open_searcher() is not run.open_searcher(faiss)
    index = load_index(project, device="cpu", store=faiss)
    assert index._store.identity != load_index(project, device="cpu")._store.identity == "exact"
    assert "faiss" in index._store.identity


def test_projects_that_share_a_cache_have_collections_of_their_own(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    monkeypatch.setattr(qdrant_store, "_connect", lambda qdrant, url: client)
    choice_ = StoreChoice("qdrant", url="http://server")
    shutil.copytree(project, tmp_path / "other")
    (tmp_path / "other/.gare/id").unlink()
    for folder in (project, tmp_path / "other"):
        project_searcher(workspace(folder), device="cpu", store=choice_)
    names = [one.name for one in client.get_collections().collections]
    assert len(names) == 2
    assert len({name.rsplit("-", 1)[1] for name in names}) == 1  # the same cache and head


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "hnsw"}, "unknown index 'hnsw'.*exact, faiss, qdrant"),
        ({"nprobe": 8}, "--nprobe is a setting of --index faiss"),
        ({"name": "faiss", "nprobe": 0}, "at least 1 list"),
        ({"name": "qdrant"}, "belong together"),
        ({"url": "http://localhost:6333"}, "belong together"),
    ],
)
def test_stores_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StoreChoice(**values)


def test_a_large_gallery_is_told_of_faiss(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    open_(project)
    assert "faiss" not in capsys.readouterr().err
    monkeypatch.setattr(choice, "_MANY", 12)
    open_(project)
    assert "note: the gallery has 13 videos; --index faiss is faster" in capsys.readouterr().err


def test_zero_shot_needs_no_head_and_no_caption(project: Path) -> None:
    shutil.rmtree(project / "outputs")
    change_params(
        project, dataset__reader="folder", dataset__annotations="videos", train__threads=1
    )
    prepare(workspace(project))
    extract(workspace(project))
    result = load_index(project, device="cpu").search(SENTENCE, Wanted(top=2))
    assert len(result.hits) == 2
    assert result.searched == 13


def test_removed_videos_are_forgotten_and_new_ones_are_found(project: Path) -> None:
    before = {hit.video_id for hit in open_(project).search(SENTENCE, Wanted(top=99)).hits}
    change_params(project, dataset__reader="folder", dataset__annotations="videos")
    (project / "videos/test/test0.mp4").unlink()
    write_video(project / "videos/test/new.mp4", seed=99)
    prepare(workspace(project))
    extract(workspace(project))
    after = {hit.video_id for hit in open_(project).search(SENTENCE, Wanted(top=99)).hits}
    assert {id_.split("/")[-1] for id_ in after} - {id_.split("/")[-1] for id_ in before} == {"new"}
    assert not any(id_.endswith("test0") for id_ in after)


def test_only_new_videos_get_vectors(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_(project)
    assert "vectors of the videos: 13 of 13" in capsys.readouterr().err
    open_(project)
    assert "vectors" not in capsys.readouterr().err
    change_params(project, dataset__reader="folder", dataset__annotations="videos")
    write_video(project / "videos/test/new.mp4", seed=99)
    prepare(workspace(project))
    extract(workspace(project))
    capsys.readouterr()
    open_(project)


def with_transformer(project: Path, **settings: Any) -> None:
    change_params(project, head__aggregator={"name": "transformer"}, **settings)
    train(workspace(project))


@pytest.mark.parametrize("reference_padding", [False, True])
def test_encoded_frames_are_kept_and_change_no_score(
    project: Path, reference_padding: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("test0", "train1"):
        write_video(project / f"videos/{name[:-1]}/{name}.mp4", seed=7, num_frames=2)
    for stage in (prepare, extract):
        stage(workspace(project))
    with_transformer(project, head__reference_padding=reference_padding)
    run = load_run(project / "outputs", device="cpu")
    expected = dict(zip(run.video_ids(), run.score([SENTENCE], None)[0].tolist(), strict=True))
    open_(project)
    opened = open_(project)
    passed: list[int] = []
    opened.head.aggregator.register_forward_hook(lambda *seen: passed.append(1))
    for wanted in (Wanted(top=99), Wanted(ids=["test0", "train1"])):
        for hit in opened.search(SENTENCE, wanted).hits:
            assert hit.score == pytest.approx(expected[hit.video_id], abs=1e-6)
    moments = {hit.video_id: hit.best_time for hit in opened.search(SENTENCE).hits}
    assert not passed
    monkeypatch.setattr(encoded, "MOST_FRAME_BYTES", 10)
    computed = open_(project)
    computed.head.aggregator.register_forward_hook(lambda *seen: passed.append(1))
    again = computed.search(SENTENCE)
    assert passed
    assert {hit.video_id: hit.best_time for hit in again.hits} == moments
    assert [hit.score for hit in again.hits] == pytest.approx(
        [expected[hit.video_id] for hit in again.hits], abs=1e-6
    )


def test_what_the_frames_take_is_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_(project, zero_shot=True).disk_note() is None
    with_transformer(project)
    slots = open_(project)._videos.frame_bytes / (13 * 64 * 4)
    assert slots == int(slots) > 1
    note = open_(project).disk_note()
    assert note is not None
    assert note.startswith("the frames as the head encodes them take ")
    monkeypatch.setattr(encoded, "MOST_FRAME_BYTES", 10)
    note = open_(project).disk_note()
    assert note is not None
    assert "are computed for every query" in note


@pytest.mark.parametrize("damage", ["cut", "gone", "other size"])
def test_damaged_vectors_are_computed_again(project: Path, damage: str) -> None:
    expected = open_(project).search(SENTENCE).hits
    (file,) = project.glob(".gare/search/*/vectors.npy")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:300])
    elif damage == "gone":
        file.unlink()
    else:
        np.save(file, np.zeros((2, 64), np.float16))
    assert open_(project).search(SENTENCE).hits == expected


def test_filters(finished: Path, project: Path) -> None:
    found = open_(project).search(SENTENCE, Wanted(split="test", top=99))
    assert {hit.video_id for hit in found.hits} == {"test0", "test1", "test2"}
    assert found.searched == 3
    below = open_(project).search(SENTENCE, Wanted(folder=finished / "videos/val", top=99))
    assert {hit.video_id for hit in below.hits} == {"val0", "val1"}
    few = open_(project).search(SENTENCE, Wanted(ids=["train3"]))
    assert [hit.video_id for hit in few.hits] == ["train3"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"split": "tset"}, "tset.*test"),
        ({"folder": Path("/nowhere")}, "no video of the gallery lies in /nowhere"),
        ({"top": 0}, "at least 1"),
        ({"least_seconds": -1.0}, "cannot be negative"),
    ],
)
def test_wishes_that_no_video_can_meet(
    project: Path, wanted: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_(project).search(SENTENCE, Wanted(**wanted))  # type: ignore[arg-type]


def test_an_unknown_id_among_the_wanted_is_named(project: Path) -> None:
    with pytest.raises(CacheError, match="no features of a video 'val2'"):
        open_(project).search(SENTENCE, Wanted(ids=["val2"]))


def test_a_video_of_the_gallery_finds_others_and_not_itself(project: Path) -> None:
    opened = open_(project)
    result = opened.search(make_query(like=["test1"]), Wanted(top=99))
    assert result.searched == 12
    assert "test1" not in {hit.video_id for hit in result.hits}


def test_the_file_of_a_gallery_video_finds_that_video(project: Path) -> None:
    hits = open_(project).search(make_query(like=[str(project / "videos/test/test1.mp4")])).hits
    assert hits[0].video_id == "test1"
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)


def test_an_image_finds_the_moment_of_its_frame(project: Path, tmp_path: Path) -> None:
    with av.open(str(project / "videos/test/test1.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    frames[6].save(tmp_path / "frame.png")
    found = open_(project, zero_shot=True).search(
        make_query(images=[tmp_path / "frame.png"]), Wanted(ids=["test1"])
    )
    (hit,) = found.hits
    assert hit.best_time == pytest.approx(1.2, abs=0.3)


def test_scores_of_several_parts_are_their_weighted_mean(project: Path) -> None:
    opened = open_(project)
    one, other = (
        {h.video_id: h.score for h in opened.search(text, Wanted(top=99)).hits}
        for text in ("a blocks", "b blocks")
    )
    mixed = opened.search(make_query("a blocks^3", without=["b blocks^1"]), Wanted(top=99)).hits
    for hit in mixed:
        expected = (3 * one[hit.video_id] - other[hit.video_id]) / 4
        assert hit.score == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in mixed] == sorted((hit.score for hit in mixed), reverse=True)


@pytest.mark.parametrize("name", ["gone.png", "text.png", "cut.png", "bomb.png"])
def test_an_image_that_is_none_is_refused(project: Path, tmp_path: Path, name: str) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    Image.new("1", (9000, 9000)).save(tmp_path / "bomb.png")
    with pytest.raises(ConfigError, match=r"bomb.png has|cannot be read as an image|is no file"):
        open_(project).search(make_query(images=[tmp_path / name]))


def test_examples_that_are_no_videos_are_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="neither the id of a video with features nor"):
        open_(project).search(make_query(like=["nothing"]))
    with pytest.raises(DecodeError, match="cannot be searched for"):
        open_(project).search(make_query(like=[str(project / "videos/val/val2.mp4")]))


def test_a_query_longer_than_the_context_is_said(project: Path) -> None:
    notes = open_(project).search("blocks " * 40).notes
    assert "the query is longer than 24 tokens: the rest is cut" in notes


def test_a_score_below_those_of_captions_is_no_close_match(project: Path) -> None:
    opened = open_(project)
    opened._calibration = dataclasses.replace(opened._calibration, least_match=2.0)
    assert any(note.startswith("no close match") for note in opened.search(SENTENCE).notes)
    opened._calibration = dataclasses.replace(opened._calibration, least_match=-1.0)
    assert not any(note.startswith("no close match") for note in opened.search(SENTENCE).notes)


def test_features_of_another_encoder_are_refused(project: Path, tmp_path: Path) -> None:
    other = make_tiny_encoder(tmp_path / "other", seed=7)
    change_params(project, encoder__model=f"local-dir:{other}")
    with pytest.raises(FingerprintMismatch, match="describe encoder"):
        open_(project, zero_shot=True).search(SENTENCE)


def test_a_run_refuses_features_of_another_encoder_than_its_heads(
    project: Path, tmp_path: Path
) -> None:
    """The kept text tower is of the features' encoder, which must be the head's too."""
    other = make_tiny_encoder(tmp_path / "other", seed=7)
    change_params(project, encoder__model=f"local-dir:{other}")
    extract(workspace(project))
    open_(project, zero_shot=True).search(SENTENCE)
    with pytest.raises(FingerprintMismatch):
        load_run(project / "outputs", device="cpu").search(SENTENCE)


def test_imported_features_are_searched_without_files(project: Path) -> None:
    opened = open_(project)
    videos = [dataclasses.replace(video, path=None) for video in opened.gallery.videos]
    opened.gallery = dataclasses.replace(opened.gallery, videos=GalleryVideos.of(videos))
    assert all(hit.path is None for hit in opened.search(SENTENCE).hits)


def test_chance_is_what_no_video_stands_out_from() -> None:
    torch.manual_seed(0)
    sample = torch.nn.functional.normalize(torch.randn(2000, 64), dim=-1)
    nothing = torch.nn.functional.normalize(torch.randn(64), dim=0)
    scores = sample @ nothing
    assert calibration.is_chance(sample, nothing, float(scores.mean() + 3 * scores.std()), 2000)
    assert not calibration.is_chance(sample, nothing, float(scores.mean() + 5 * scores.std()), 2000)


def test_many_queries_at_once_are_each_answered_as_alone(project: Path) -> None:
    opened = open_(project)
    asked = [
        (make_query(SENTENCE), Wanted(top=3)),
        (make_query(like=["test1"]), Wanted(top=2)),
        (make_query("a", also=["b^2"], without=["c"]), Wanted(top=4, split="test")),
    ]
    together = opened.search_many(asked)
    for found, (query, wanted) in zip(together, asked, strict=True):
        alone = opened.search(query, wanted)
        assert not isinstance(found, Exception)
        assert [hit.video_id for hit in found.hits] == [hit.video_id for hit in alone.hits]
        assert [hit.score for hit in found.hits] == pytest.approx(
            [hit.score for hit in alone.hits], abs=1e-5
        )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("aggregator", ["mean", "transformer"])
@pytest.mark.parametrize("gap", [True, False])
def test_clients_at_once_share_frames_and_store(
    project: Path, whole: bool, aggregator: str, gap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = ("ib", "eps", "dir")
    off = {f"train__loss__{term}__weight": 0.0 for term in terms}
    without = {} if gap else {"head__gap": None, **off}
    change_params(project, head__aggregator={"name": aggregator}, **without)
    train(workspace(project))
    if not whole:
        monkeypatch.setattr(searcher, "WHOLE", 4)
        monkeypatch.setattr(opening, "WHOLE", 4)
    opened = open_(project)
    opened._calibration = dataclasses.replace(opened._calibration, rerank=5)
    asked = [
        *((make_query(f"{letter} blocks"), Wanted(top=4)) for letter in "abcdefgh"),
        (make_query(SENTENCE, without=["c"]), Wanted(top=3, split="train")),
        (make_query(like=["test1"]), Wanted(top=2)),
    ]
    alone = [opened.search(*one) for one in asked]
    store, frames = opened._store.nearest, EncodedGallery.frames
    looked: list[int] = []
    read: list[int] = []
    monkeypatch.setattr(
        opened._store,
        "nearest",
        lambda queries, *more: (looked.append(len(queries)), store(queries, *more))[1],
    )
    monkeypatch.setattr(
        EncodedGallery,
        "frames",
        lambda of, places: (read.append(len(places)), frames(of, places))[1],
    )
    together = opened.search_many(asked)
    assert looked == [8, 1, 1]
    assert len(read) == 2  # the example, and the union
    for found, expected in zip(together, alone, strict=True):
        assert isinstance(found, SearchResult)
        assert dataclasses.replace(found, hits=()) == dataclasses.replace(expected, hits=())
        for hit, of in zip(found.hits, expected.hits, strict=True):
            assert dataclasses.replace(hit, score=0) == dataclasses.replace(of, score=0)
            assert hit.score == pytest.approx(of.score, abs=1e-6)


def test_many_videos_are_read_in_parts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_(project)
    asked = [(make_query(text), Wanted(split=split)) for text in "ab" for split in ("train", "val")]
    expected = opened.search_many(asked)
    monkeypatch.setattr(searcher, "_VIDEOS_AT_ONCE", 3)
    assert opened.search_many(asked) == expected


def test_a_faulty_query_leaves_the_others_alone(project: Path) -> None:
    faulty = (make_query(images=["nowhere.png"]), Wanted())
    found = open_(project).search_many([faulty, (make_query("a"), Wanted())])
    assert isinstance(found[0], ConfigError)
    assert not isinstance(found[1], Exception)


def test_the_encoder_is_loaded_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    real = opening.project_encoder
    monkeypatch.setattr(
        opening,
        "project_encoder",
        lambda *args, **named: (loaded.append(1), real(*args, **named))[1],
    )
    opened = open_(project)
    for _ in range(2):
        opened.search(SENTENCE)
    assert loaded == [1]
