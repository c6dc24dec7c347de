import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from gare_cache.data.split import load_split
from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import (
    both_directions,
    known_recalls,
    retrieval_metrics,
    text_to_video,
    video_to_text,
)
from gare_cache.evaluation.normalisers.scored_split import normalise_scored, plan_normalisers
from gare_cache.evaluation.results import PairedDifference
from gare_cache.evaluation.scores import summarise
from gare_cache.evaluation.settings import EvaluateSettings
from gare_cache.files import finite_or_none
from gare_cache.manifest.tables import read_manifest
from gare_cache.project.features import open_features
from gare_cache.project.paths import Workspace
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report, score_lines
from gare_cache.stages.train import train
from gare_cache.training.checkpoint import load_checkpoint
from tests.evaluation.normalisers.test_banks import make_split
from tests.plain_head import plain_head
from tests.tiny import make_project, params, workspace

ALL = [
    {"name": "sinkhorn"},
    {"name": "inverted_softmax", "kind": "transductive"},
    {"name": "qbnorm"},
    {"name": "dsl"},
    {"name": "dual_is"},
    {"name": "dual_dis"},
    {"name": "csls"},
    {"name": "nnn"},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("normalise") / "project", tiny_encoder_dir)
    for stage in (prepare, extract, train):
        stage(workspace(folder))
    return folder


def with_settings(folder: Path, **evaluation: Any) -> Workspace:
    space = workspace(folder)
    values = yaml.safe_load((folder / "params.yaml").read_text())["evaluate"] | evaluation
    changed = EvaluateSettings.model_validate(values)
    return replace(space, params=params(folder).model_copy(update={"evaluate": changed}))


def test_a_run_without_normalisers_is_as_before_and_the_others_differ_in_the_ledger_alone(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = workspace(trained)
    evaluate(space)
    report(space)
    files = {path.name: path.read_bytes() for path in space.evaluation.iterdir()}
    assert "normalisers" not in json.loads(files["metrics.json"])
    assert "Normalisers" not in (space.report / "report.md").read_text()
    assert not any("normalis" in line for line in score_lines(space))
    entry = json.loads(space.ledger.read_text().splitlines()[-1])
    assert list(entry["protocol"]) == ["captions", "missing", "v2t_convention"]

    space = with_settings(trained, normalisers=ALL)
    evaluate(space)
    for name, content in sorted(files.items()):
        found = (space.evaluation / name).read_bytes()
        if name == "metrics.json":
            metrics = json.loads(found)
            rows = metrics.pop("normalisers")["rows"]
            assert {**metrics, "digest": ""} == {**json.loads(content), "digest": ""}
        elif name == "ranks.parquet":
            before, after = (pq.read_table(io.BytesIO(data)) for data in (content, found))
            kept = pc.is_in(after["method"], pa.array(["zero_shot", "head"]))
            assert after.filter(kept).equals(before)
            added = set(after.filter(pc.invert(kept))["method"].to_pylist())
            assert added == {f"head, {row['title']}" for row in rows[1:]}
        else:
            assert found == content, name
    entry = json.loads(space.ledger.read_text().splitlines()[-1])
    assert entry["protocol"]["normalisers"] == ALL


def test_the_ledger_in_metrics_print_and_report(trained: Path) -> None:
    space = with_settings(trained, normalisers=[{"name": "none"}, *ALL])
    metrics = evaluate(space)
    printed = "\n".join(score_lines(space))
    found = metrics["normalisers"]
    assert found["bank"] == {"split": "train", "texts": 16, "videos": 8}
    rows = found["rows"]
    assert [row["name"] for row in rows] == ["none", *(entry["name"] for entry in ALL)]
    kinds = {row["name"]: row["kind"] for row in rows}
    assert {name for name, kind in kinds.items() if kind == "transductive"} == {
        "inverted_softmax",
        "dsl",
    }
    raw = rows[0]
    for direction in ("t2v", "v2t"):
        scores = dict(raw[direction])
        assert scores.pop("normalisation error") >= 0
        assert scores == metrics["methods"]["head"][direction]
    assert "R@1 - raw" not in raw["t2v"]
    for row in rows[1:]:
        for direction in ("t2v", "v2t"):
            points = row[direction]["R@1"] - raw[direction]["R@1"]
            assert row[direction]["R@1 - raw"]["R@1"] == pytest.approx(points, abs=1e-9)
    assert rows[1]["parameters"] == {"iterations": 4, "targets": "uniform"}
    report(space)
    page = (space.report / "report.html").read_text()
    for text in (printed, page, (space.report / "report.md").read_text()):
        assert "sinkhorn (iterations 4, targets uniform)" in text
        assert "X, transductive: sees all scored queries at once" in text
        assert "Here every video has 2 texts" in text
        assert "Banks: 16 texts and 8 videos of the train split" in text
    first_rows = [line for line in printed.splitlines() if line.startswith(("t2v", "v2t"))]
    assert [line.split()[1] for line in first_rows[:: len(rows)]] == ["raw", "raw"]


def test_a_normaliser_from_the_saved_matrices_alone(trained: Path) -> None:
    """nnn and csls, computed here from features and head."""
    space = with_settings(trained, normalisers=[{"name": "nnn", "k": 3}, {"name": "csls", "k": 2}])
    metrics = evaluate(space)
    head = load_checkpoint(space.run / "head.safetensors").head
    cache, _ = open_features(space)
    manifest = read_manifest(space.manifest)
    splits = {
        name: load_split(cache, manifest, name, device=torch.device("cpu"))
        for name in ("train", "test")
    }
    own, other = splits["test"], splits["train"]
    scale = float(head.scale.detach())

    def logits(text: torch.Tensor, split: Any) -> np.ndarray:
        return scale * head.similarity(text, split.frames, split.mask).numpy().astype(float)

    scores = logits(own.text, own)
    to_videos, to_texts = logits(other.text, own), logits(own.text, other).T
    truth = own.video_of_text.numpy()
    for row, k in ((metrics["normalisers"]["rows"][1], 3), (metrics["normalisers"]["rows"][2], 2)):
        of_video, of_text = (np.sort(bank, axis=0)[-k:].mean(0) for bank in (to_videos, to_texts))
        factor = 0.75 if row["name"] == "nnn" else 0.5
        ranks = {
            "t2v": text_to_video(scores - factor * of_video, truth),
            "v2t": video_to_text(
                scores - factor * of_text[:, None], truth, convention="best_caption_of_all"
            ),
        }
        for direction, expected in ranks.items():
            known = known_recalls(retrieval_metrics(expected), row[direction]["items"])
            for name, value in finite_or_none(known).items():
                assert row[direction][name] == pytest.approx(value), (row["name"], name)


def test_queries_without_features_count_as_the_headline_counts_them(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    folder = make_project(tmp_path / "project", tiny_encoder_dir)
    (folder / "videos/test/test2.mp4").unlink()
    for stage in (prepare, extract, train):
        stage(workspace(folder))
    for rule, queries in (("drop", 4), ("count_as_miss", 6)):
        space = with_settings(folder, normalisers=[{"name": "csls"}], missing=rule)
        rows = evaluate(space)["normalisers"]["rows"]
        assert [row["t2v"]["queries"] for row in rows] == [queries, queries]


def test_parameters_are_chosen_on_validation(trained: Path) -> None:
    betas = [5, 20, 60]
    entry = {"name": "qbnorm", "beta": betas, "k": [1, 2]}
    space = with_settings(trained, normalisers=[entry, {"name": "csls"}], captions="first")
    rows = evaluate(space)["normalisers"]["rows"]
    chosen = rows[1]["chosen"]
    assert [one["parameters"] for one in chosen["candidates"]] == [
        {"beta": beta, "k": k} for beta in betas for k in (1, 2)
    ]
    best = max(one["score"] for one in chosen["candidates"])
    first = next(one for one in chosen["candidates"] if one["score"] == best)
    assert (chosen["score"], rows[1]["parameters"]) == (best, first["parameters"])
    assert rows[2]["chosen"] is None
    # Each candidate's score is what the validation split itself gives, one caption a video.
    for one in chosen["candidates"]:
        own = {"name": "qbnorm", **one["parameters"]}
        alone = with_settings(trained, split="val", normalisers=[own], captions="first")
        row = evaluate(alone)["normalisers"]["rows"][1]
        assert one["score"] == pytest.approx((row["t2v"]["R@1"] + row["v2t"]["R@1"]) / 2)
    evaluate(space)
    report(space)
    assert "test had no part in the choice" in (space.report / "report.md").read_text()


def test_test_has_no_part_in_the_choice() -> None:
    torch.manual_seed(0)
    splits = {
        name: make_split(name, num_videos=12, captions=2, seed=seed)
        for seed, name in enumerate(("train", "val", "test"))
    }
    head = plain_head(
        dim=16, max_frames=3, aggregator={"name": "mean"}, pooling={"name": "mean"}
    ).eval()
    settings = EvaluateSettings(
        normalisers=[{"name": "nnn", "alpha": [0.1, 0.5, 0.9, 2.0], "k": [1, 4, 9]}]
    )
    plan = plan_normalisers(settings, splits["test"], splits.__getitem__)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(4):
        similarity = generator.uniform(-1, 1, (24, 12)).astype(np.float32)
        record, ranks = normalise_scored(
            plan,
            head,
            splits["test"],
            similarity,
            convention="best_caption_of_all",
            score=lambda ranks: {
                d: summarise(r, np.arange(len(r.ahead)), num_items=12, resamples=10)
                for d, r in ranks.items()
            },
            differ=lambda ranks, raw: {
                d: PairedDifference(0.0, 0.0, 0.0, 12, 1.0, 1.0) for d in ranks
            },
        )
        found.append(record["rows"][1]["chosen"])
        raw = both_directions(
            similarity, splits["test"].video_of_text.numpy(), convention="best_caption_of_all"
        )
        assert record["rows"][0]["v2t"]["MnR"] == retrieval_metrics(raw["v2t"])["MnR"]
        (corrected,) = ranks.values()
        assert record["rows"][1]["v2t"]["MnR"] == retrieval_metrics(corrected["v2t"])["MnR"]
    assert found == [found[0]] * 4
    assert len({one["score"] for one in found[0]["candidates"]}) > 1


def test_banks_take_the_captions_that_the_protocol_takes(trained: Path) -> None:
    for captions, texts in (("all", 16), ("first", 8)):
        space = with_settings(trained, normalisers=[{"name": "csls"}], captions=captions)
        assert evaluate(space)["normalisers"]["bank"]["texts"] == texts
    space = with_settings(trained, normalisers=[{"name": "csls"}], bank={"size": 10})
    bank = evaluate(space)["normalisers"]["bank"]
    assert (bank["texts"], bank["videos"]) == (10, 8)


def test_the_scored_split_may_choose_for_itself_and_it_is_said(trained: Path) -> None:
    space = with_settings(trained, split="val", normalisers=[{"name": "dsl", "temp": [1, 10]}])
    evaluate(space)
    printed = "\n".join(score_lines(space))
    assert "the best of 2 candidates on the scored split itself" in printed
    assert "Banks:" not in printed
    assert "Logits are the raw scores times " in printed


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (
            {"normalisers": [{"name": "csls"}], "bank": {"size": 17}},
            "evaluate.bank.size is 17, but",
        ),
        ({"normalisers": [{"name": "dsl"}], "bank": {"size": 4}}, "no inductive normaliser is in"),
        ({"bank": {"size": 4}}, "no inductive normaliser is in"),
        ({"normalisers": [{"name": "csls"}, {"name": "csls"}]}, "has csls twice with the same"),
        ({"normalisers": [{"name": "csls"}], "split": "train"}, "evaluate.split is train, whose"),
    ],
)
def test_what_is_refused_before_anything_is_scored(
    trained: Path, evaluation: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_scoring(*arguments: Any) -> None:
        raise AssertionError("scored")

    monkeypatch.setattr("gare_cache.stages.evaluate.score_split", no_scoring)
    with pytest.raises(ConfigError, match=message):
        evaluate(with_settings(trained, **evaluation))


def test_a_single_query_and_videos_without_captions_are_refused_before_scoring() -> None:
    one = make_split("test", num_videos=1, captions=3, seed=0)
    some = make_split("test", num_videos=3, captions=1, seed=0)
    lost = some.with_texts([0, 1], num_listed=2)
    for entry, split, message in (
        ({"name": "dsl"}, one, "dsl is transductive .* there is 1 in one direction"),
        ({"name": "sinkhorn", "targets": "annotated"}, lost, "set targets: uniform"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan_normalisers(EvaluateSettings(normalisers=[entry]), split, lambda name: some)


def test_faults_in_params_are_found_when_they_are_read(trained: Path) -> None:
    path = trained / "params.yaml"
    original = path.read_text()
    try:
        for entries, message in (
            ([{"name": "qb"}], "evaluate.normalisers: unknown normaliser 'qb'"),
            ([{"name": "sinkhorn", "iterations": 0}], "without iterations it is inverted_softmax"),
            ([{"name": "nnn", "alpha": [0.5, "much"]}], "nnn.alpha is 'much'"),
            (["csls"], "should be a valid dictionary"),
        ):
            values = yaml.safe_load(original)
            values["evaluate"]["normalisers"] = entries
            path.write_text(yaml.safe_dump(values))
            with pytest.raises(ConfigError, match=message):
                workspace(trained)
    finally:
        path.write_text(original)
