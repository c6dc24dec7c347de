import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import zarr

from gare_cache.cache import schema
from gare_cache.cache.writer import CacheWriter
from gare_cache.errors import (
    AnnotationError,
    CacheError,
    ConfigError,
    DecodeError,
    FingerprintMismatch,
)
from gare_cache.evaluation.metrics import retrieval_metrics, text_to_video
from gare_cache.files import read_json
from gare_cache.project.features import open_features
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.info import describe
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report, score_lines
from gare_cache.stages.train import train
from tests.tiny import SPLIT_SIZES, change_params, make_tiny_encoder, workspace, write_video

NUM_VIDEOS = sum(SPLIT_SIZES.values())


@pytest.fixture(autouse=True)
def _caches_beside_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "_MOST_ROWS", {"video": 4, "text": 8})


@pytest.fixture
def extracted(project: Path) -> Path:
    prepare(workspace(project))
    extract(workspace(project))
    return project


def arrays(project: Path) -> dict[str, Any]:
    (folder,) = (project / "cache").iterdir()
    group = zarr.open_group(folder / "features.zarr", mode="r")
    names = ("video/frames", "video/times", "video/num_frames", "text/features")
    return {name: np.asarray(group[name][:]) for name in names}


def assert_equal_arrays(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_from_videos_to_the_report(extracted: Path) -> None:
    space = workspace(extracted)
    record = train(space)
    metrics = evaluate(space)
    table = report(space)

    similarity = np.load(space.evaluation / "similarity.npy")
    truth = np.repeat(np.arange(3), 2)
    recomputed = retrieval_metrics(text_to_video(similarity, truth))
    assert metrics["methods"]["head"]["t2v"]["R@1"] == recomputed["R@1"]
    assert metrics["coverage"] == "3 of 3 test videos, 6 of 6 captions"
    ranks = pq.read_table(space.evaluation / "ranks.parquet").to_pylist()
    assert len(ranks) == 2 * (6 + 3)
    first = next(r for r in ranks if (r["method"], r["query_id"]) == ("head", "test1#0"))
    assert first["video_id"] == "test1"
    assert first["rank"] == text_to_video(similarity, truth).expected[2]
    zero_shot = arrays(extracted)
    frames = torch.from_numpy(zero_shot["video/frames"][11:]).float().mean(1)
    text = torch.from_numpy(zero_shot["text/features"][22:]).float()
    expected = torch.nn.functional.cosine_similarity(text[:, None], frames[None], dim=-1)
    found = [r["ahead"] for r in ranks if (r["method"], r["direction"]) == ("zero_shot", "t2v")]
    assert found == text_to_video(expected.numpy(), truth).ahead.tolist()

    page = (space.report / "report.html").read_text()
    assert "test0" in page
    assert "data:image/jpeg;base64," in page
    assert "zero-shot mean pooling" in table
    assert record["best_epoch"] >= 1
    assert read_json(space.run / "record.json") == record
    assert len((space.run / "train_log.jsonl").read_text().splitlines()) == 3
    lines = dict(describe(space))
    assert lines["test videos"] == "3 of 3 encoded"
    assert lines["video rows"] == f"{NUM_VIDEOS} ok, 0 failed, 0 pending"


def test_features_are_those_of_the_encoder_alone(extracted: Path) -> None:
    from gare_cache.encoders.encoder import load_encoder
    from gare_cache.encoders.loading import ModelSource
    from gare_cache.video.decoding import decode_clip

    encoder = load_encoder(ModelSource(workspace(extracted).params.encoder.model))
    found = arrays(extracted)
    for row in (0, 13):
        name = "train/train0" if row == 0 else "test/test2"
        clip = decode_clip(
            extracted / "videos" / f"{name}.mp4", sampler="segment_centre", max_frames=4
        )
        expected = encoder.encode_frames(encoder.preprocess(clip.frames)).numpy()
        np.testing.assert_allclose(found["video/frames"][row], expected, atol=2e-3, rtol=2e-3)
        np.testing.assert_array_equal(found["video/times"][row], clip.times)
    tokens = encoder.tokenize(["a blocks number 0 of train"])
    expected = encoder.encode_tokens(tokens).numpy()[0]
    np.testing.assert_allclose(found["text/features"][0], expected, atol=2e-3, rtol=2e-3)


def test_a_second_run_of_every_stage_changes_nothing(extracted: Path) -> None:
    space = workspace(extracted)
    for stage in (train, evaluate, report):
        stage(space)
    skipped = {"journal", "lock", "ledger.jsonl"}
    before = {
        path: path.read_bytes()
        for path in extracted.rglob("*")
        if path.is_file() and not skipped & set(path.parts)
    }
    for stage in (prepare, extract, train, evaluate, report):
        stage(space)
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    # The report says that test was scored once more.
    assert sorted(changed) == [space.report / "report.html", space.report / "report.md"]


def test_the_same_seed_gives_the_same_bytes_in_another_folder(
    extracted: Path, tmp_path: Path
) -> None:
    space = workspace(extracted)
    train(space)
    first = (space.run / "head.safetensors").read_bytes()
    (extracted / ".gare").rename(tmp_path / "state of the first run")
    train(space)
    assert (space.run / "head.safetensors").read_bytes() == first
    change_params(extracted, train__seed=1)
    train(workspace(extracted))
    assert (space.run / "head.safetensors").read_bytes() != first


def test_other_settings_extract_into_another_folder_and_the_old_one_is_found_again(
    extracted: Path,
) -> None:
    first = (workspace(extracted).features).read_bytes()
    change_params(extracted, extract__max_frames_cached=2)
    extract(workspace(extracted))
    assert len(list((extracted / "cache").iterdir())) == 2
    change_params(extracted, extract__max_frames_cached=4)
    journals = {p: p.read_bytes() for p in extracted.glob("cache/*/journal/*")}
    extract(workspace(extracted))
    assert workspace(extracted).features.read_bytes() == first
    assert {p: p.read_bytes() for p in extracted.glob("cache/*/journal/*")} == journals


@pytest.mark.usefixtures("small_units")
@pytest.mark.parametrize("moment", ["encoding", "before the journal", "after the journal"])
def test_an_interrupted_extraction_goes_on_to_the_same_arrays(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    prepare(workspace(project))
    extract(workspace(project))
    expected = arrays(project)
    features = workspace(project).features.read_bytes()
    (project / "cache").rename(tmp_path / "undisturbed")

    with monkeypatch.context() as patch:
        _interrupt(patch, moment)
        with pytest.raises(KeyboardInterrupt):
            extract(workspace(project))
    assert 0 < _records(project) < 8
    extract(workspace(project))
    assert_equal_arrays(arrays(project), expected)
    assert workspace(project).features.read_bytes() == features


def _interrupt(patch: pytest.MonkeyPatch, moment: str) -> None:
    from gare_cache.cache import writer
    from gare_cache.encoders.encoder import Encoder

    if moment == "encoding":
        _raise_at_call(patch, Encoder, "to_images", 6)
    elif moment == "before the journal":
        _raise_at_call(patch, writer.journal, "append", 2)
    else:
        commit, calls = CacheWriter.commit, []

        def commit_then_stop(*args: Any, **kwargs: Any) -> None:
            commit(*args, **kwargs)
            calls.append(1)
            if len(calls) == 2:
                raise KeyboardInterrupt

        patch.setattr(CacheWriter, "commit", commit_then_stop)


def _raise_at_call(patch: pytest.MonkeyPatch, module: Any, name: str, number: int) -> None:
    original, calls = getattr(module, name), []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    patch.setattr(module, name, stop)


def _records(project: Path) -> int:
    return sum(len(p.read_text().splitlines()) for p in project.glob("cache/*/journal/*"))


def test_an_undecodable_video_is_recorded_and_masked(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "videos/test/test1.mp4").write_bytes(b"no video at all")
    (project / "videos/test/test2.mp4").unlink()
    change_params(project, extract__max_failed_percent=10)
    space = workspace(project)
    assert prepare(space)["missing"] == {"test2": "captions.csv:28: test2"}
    features = extract(space)
    assert features["videos"] == {"encoded": NUM_VIDEOS - 2, "failed": 1, "missing": 1}
    cache, _ = open_features(space)
    assert "test1.mp4" in cache.failures()["test1"]
    assert cache.videos(["test1"]).num_frames[0] == 0
    assert np.isnan(cache.videos(["test1"]).frames).all()
    train(space)
    metrics = evaluate(space)
    assert metrics["coverage"] == "1 of 3 test videos, 2 of 6 captions"
    assert metrics["num_videos"] == 1
    dropped, counted = metrics["methods"]["head"], metrics["alternative"]["methods"]["head"]
    assert dropped["t2v"]["R@1"] is None  # of one video in the gallery
    assert counted["v2t"]["R@1"] == pytest.approx(100 / 3)
    assert counted["t2v"]["R@1"] is counted["v2t"]["R@50"] is None
    assert counted["t2v"]["MnR"] == pytest.approx((2 * 1 + 4 * 4) / 6)
    assert counted["v2t"]["MnR"] == pytest.approx((1 + 7 + 7) / 3)
    assert [counted["t2v"][name] for name in ("queries", "queries with features")] == [6, 2]
    rows = pq.read_table(space.evaluation / "ranks.parquet").to_pylist()
    lost = [row for row in rows if row["missing"]]
    assert len(lost) == 2 * (4 + 2)
    assert all((row["rank"], row["ahead"], row["ties"]) == (None, None, None) for row in lost)
    assert {row["missing"] for row in lost} == {"video"}
    report(space)
    page = (space.report / "report.html").read_text()
    assert "queries without features counted as misses" in page
    assert "2 of 6" in page
    listed = (space.report / "report.md").read_text().split("## Videos without features")[1]
    assert "no file" in listed
    assert all(reason.split(":")[0] in listed for reason in open_features(space)[0].failures())
    change_params(project, evaluate__missing="count_as_miss")
    swapped = evaluate(workspace(project))
    assert swapped["methods"]["head"] == counted
    assert swapped["alternative"]["methods"]["head"] == dropped
    change_params(project, evaluate__captions="first")
    assert evaluate(workspace(project))["coverage"] == "1 of 3 test videos, 1 of 3 captions"
    printed = score_lines(space)
    assert "evaluate.missing: count_as_miss (headline)" in printed
    assert "evaluate.missing: drop" in printed
    assert any(line.startswith("Text to video") and "1 of 3" in line for line in printed)

    write_video(project / "videos/test/test1.mp4", seed=50)
    prepare(space)
    assert extract(space)["videos"]["failed"] == 0


def test_too_many_failures_stop_the_stage_and_keep_what_is_done(project: Path) -> None:
    (project / "videos/test/test1.mp4").write_bytes(b"no video at all")
    prepare(workspace(project))
    with pytest.raises(DecodeError, match=r"1 of 14 videos cannot be encoded .*test1.mp4"):
        extract(workspace(project))
    assert not workspace(project).features.exists()
    assert np.isfinite(arrays(project)["video/frames"]).any(axis=(1, 2)).sum() == NUM_VIDEOS - 1


def test_a_video_that_changes_between_prepare_and_extract_is_not_passed_off(
    project: Path,
) -> None:
    prepare(workspace(project))
    write_video(project / "videos/val/val0.mp4", seed=99, num_frames=12)
    with pytest.raises(DecodeError, match=r"val0.mp4 has changed since it was listed"):
        extract(workspace(project))


def test_a_head_for_another_encoder_is_refused(extracted: Path, tmp_path: Path) -> None:
    train(workspace(extracted))
    other = make_tiny_encoder(tmp_path / "other", seed=5)
    change_params(extracted, encoder__model=f"local-dir:{other}")
    extract(workspace(extracted))
    with pytest.raises(FingerprintMismatch, match="the head was trained on encoder"):
        evaluate(workspace(extracted))


def test_a_head_scores_a_cache_of_more_frames_on_as_many_as_it_was_trained_with(
    extracted: Path,
) -> None:
    train(workspace(extracted))
    change_params(extracted, extract__max_frames_cached=6)
    extract(workspace(extracted))
    before = evaluate(workspace(extracted))["methods"]["head"]
    assert before["t2v"]["queries"] == 6


def test_more_frames_than_are_cached_are_refused(extracted: Path) -> None:
    change_params(extracted, train__num_frames=5)
    with pytest.raises(ConfigError, match=r"train.num_frames is 5, but .* holds at most 4 frames"):
        train(workspace(extracted))


def test_jitter_without_a_choice_is_refused(extracted: Path) -> None:
    change_params(extracted, train__frame_choice="jittered")
    with pytest.raises(ConfigError, match="nothing to choose"):
        train(workspace(extracted))


def test_views_that_were_not_cached_are_refused(extracted: Path) -> None:
    change_params(extracted, train__views=True)
    with pytest.raises(CacheError, match=r"holds no augmented views; set extract\.views"):
        train(workspace(extracted))


def test_stages_out_of_order_name_the_stage_to_run(project: Path) -> None:
    space = workspace(project)
    with pytest.raises(AnnotationError, match="run `gare-cache prepare` first"):
        extract(space)
    with pytest.raises(CacheError, match="run `gare-cache extract` first"):
        train(space)
    prepare(space)
    extract(space)
    with pytest.raises(ConfigError, match="run `gare-cache train`"):
        evaluate(space)
    with pytest.raises(ConfigError, match="run `gare-cache evaluate` first"):
        report(space)


def test_features_that_are_gone_or_others_are_refused(extracted: Path) -> None:
    space = workspace(extracted)
    features = read_json(space.features)
    space.features.write_text(json.dumps({**features, "content_digest": "0" * 64}))
    with pytest.raises(FingerprintMismatch, match="run `gare-cache extract` again"):
        open_features(space)
    space.features.write_text(json.dumps({**features, "folder": "tiny-gone"}))
    with pytest.raises(CacheError, match=r"no feature cache at .*tiny-gone; run"):
        open_features(space)
