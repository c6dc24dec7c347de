import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.project.paths import Workspace
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import change_params, params

NUM_VIDEOS = 60


def compare(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def write_run(
    folder: Path,
    ahead: Sequence[int],
    *,
    captions: int = 1,
    ties: Sequence[int] | None = None,
    seed: int | None = None,
    **changes: Any,
) -> Path:
    """Write what evaluate writes; ``ahead`` is t2v's, and v2t is the first caption's."""
    videos = [f"v{query // captions}" for query in range(len(ahead))]
    queries = [f"{video}#{query % captions}" for query, video in enumerate(videos)]
    ties = [0] * len(ahead) if ties is None else ties
    first = slice(None, None, captions)
    parts = [
        ("t2v", queries, videos, ahead, ties),
        ("v2t", videos[first], videos[first], ahead[first], ties[first]),
    ]
    tables = [
        pa.table(
            {
                "method": ["head"] * len(ids),
                "direction": [direction] * len(ids),
                "query_id": ids,
                "video_id": of,
                "ahead": np.array(a, dtype=np.int64),
                "ties": np.array(t, dtype=np.int64),
                "rank": np.array(a) + np.array(t) / 2 + 1,
            }
        )
        for direction, ids, of, a, t in parts
    ]
    (folder / "evaluation").mkdir(parents=True)
    pq.write_table(pa.concat_tables(tables), folder / "evaluation" / "ranks.parquet")
    metrics = {
        "split": "test",
        "v2t_convention": "best_caption_of_all",
        "captions": "all",
        "missing": "drop",
        "run_key": f"run {seed}",
        "methods": {
            "head": {name: {"items listed": len(videos)} for name in ("t2v", "v2t")},
        },
        "num_texts": len(queries),
        "num_videos": len(queries) // captions,
    }
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics | changes))
    if seed is not None:
        (folder / "run").mkdir()
        settings = {"train": {"seed": seed, "epochs": 5}, "head": {"gap": None}}
        record = {
            "run_key": f"run {seed}",
            "settings": settings,
            "extraction_id": "abc",
            "data": {"train": "def"},
            "source": "ghi",
        }
        (folder / "run" / "record.json").write_text(json.dumps(record))
    return folder


def ranks(seed: int, rate: float = 0.5, count: int = NUM_VIDEOS) -> list[int]:
    generator = np.random.default_rng(seed)
    return [int(value) for value in np.where(generator.random(count) < rate, 0, 7)]


def change_ranks(folder: Path, query: str, **changes: Any) -> None:
    file = folder / "evaluation" / "ranks.parquet"
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        if row["query_id"] == query:
            row |= changes
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.mark.parametrize("rule", ["drop", "count_as_miss"])
def test_queries_without_features_follow_the_rule_of_the_runs(tmp_path: Path, rule: str) -> None:
    runs = [write_run(tmp_path / name, [0] * NUM_VIDEOS, missing=rule) for name in "ab"]
    for run in runs:
        change_ranks(run, "v3#0", ahead=None, ties=None, rank=None)
        change_ranks(run, "v3", ahead=None, ties=None, rank=None)
    code, _, err = compare(*runs, "--json", tmp_path / "f.json")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "f.json").read_text())["t2v"]["R@10"]
    counted = NUM_VIDEOS - 1 if rule == "drop" else NUM_VIDEOS
    assert found["a"] == [pytest.approx(100 * (NUM_VIDEOS - 1) / counted)]
    assert found["difference"] == 0


@pytest.mark.parametrize(("key", "value"), [("captions", "first"), ("missing", "count_as_miss")])
def test_another_protocol_is_another_test(tmp_path: Path, key: str, value: str) -> None:
    a, b = (write_run(tmp_path / name, ranks(0)) for name in "ab")
    file = b / "evaluation" / "metrics.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    code, _, err = compare(a, b)
    assert code == 2
    assert f"has the {key} " in err


@pytest.mark.parametrize("key", ["data", "source", "extraction_id"])
def test_seeds_of_one_method_learnt_from_the_same_with_the_same_code(
    tmp_path: Path, key: str
) -> None:
    a, also, b = (write_run(tmp_path / str(i), ranks(i), seed=i) for i in range(3))
    file = also / "run" / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: "other"}))
    code, _, err = compare(a, b, "--also-a", also)
    assert code == 2
    assert f"{key}" in err
    assert "is not another seed of" in err
    assert ("train all seeds with one version" in err) == (key == "source")


def finetuned(folder: Path, *, seed: int, start: int | None, **changes: Any) -> Path:
    """Write a finetuning of a seed that starts from the frozen run of a seed, as finetune does."""
    write_run(folder, ranks(seed), seed=seed)
    file = folder / "run" / "record.json"
    record = json.loads(file.read_text())
    path = None if start is None else f"frozen_{start}/run"
    record["settings"]["finetune"] = {"encoder": "lora", "from_run": path}
    record |= {"encoder_id": f"made by seed {seed}", "from_run": start and f"key {start}"}
    origin: dict[str, Any] = {"encoder_id": "frozen", "run_key": None}
    if start is not None:
        settings = {"train": {"seed": start, "epochs": 10}}
        origin |= {"run_key": f"key {start}", "run": {"settings": settings, "source": "x"}}
    record["started_from"] = origin
    for dotted, value in changes.items():
        *parents, last = dotted.split("__")
        inner = record
        for name in parents:
            inner = inner[name]
        inner[last] = value
    file.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("starts", [(1, 2), (1, 1), (None, None)])
def test_seeds_of_a_finetuning_have_their_own_encoders_and_starts(
    tmp_path: Path, starts: tuple[int | None, int | None]
) -> None:
    a, also = (
        finetuned(tmp_path / f"a{number}", seed=number, start=start)
        for number, start in enumerate(starts)
    )
    b = write_run(tmp_path / "b", ranks(7), seed=7)
    code, out, err = compare(a, b, "--also-a", also)
    assert (code, err) == (0, "")
    assert "Student's t over videos and seeds (2 of A, 1 of B)" in out


@pytest.mark.parametrize(
    ("start", "changes", "named"),
    [
        (2, {"settings__finetune__encoder": "full"}, "finetune.encoder is 'full'"),
        (2, {"started_from__encoder_id": "another"}, "started_from.encoder_id is 'another'"),
        (
            2,
            {"started_from__run__settings__train__epochs": 3},
            "started_from.run.settings.train.epochs is 3",
        ),
        (2, {"started_from__run__source": "y"}, "started_from.run.source is 'y'"),
        (None, {}, "whether it starts from a run (finetune.from_run) is False"),
    ],
)
def test_finetunings_of_other_settings_or_starts_are_no_seeds_of_one(
    tmp_path: Path, start: int | None, changes: dict[str, Any], named: str
) -> None:
    a = finetuned(tmp_path / "a", seed=1, start=1)
    also = finetuned(tmp_path / "also", seed=2, start=start, **changes)
    b = write_run(tmp_path / "b", ranks(7), seed=7)
    code, _, err = compare(a, b, "--also-a", also)
    assert code == 2
    assert named in err


def test_scores_of_another_head_or_version_are_refused(tmp_path: Path) -> None:
    a, b = (write_run(tmp_path / name, ranks(0), seed=i) for i, name in enumerate("ab"))
    file = b / "evaluation" / "metrics.json"
    metrics = json.loads(file.read_text())
    file.write_text(json.dumps(metrics | {"run_key": "run 7"}))
    assert "holds the head of run run 1; run `gare-cache evaluate` again" in compare(a, b)[2]
    del metrics["missing"]
    file.write_text(json.dumps(metrics))
    assert "does not say its missing: another version" in compare(a, b)[2]


def test_two_runs(tmp_path: Path) -> None:
    ours, theirs = ranks(0, 0.7), ranks(1, 0.4)
    a, b = write_run(tmp_path / "a", ours), write_run(tmp_path / "b", theirs)
    code, out, err = compare(a, b, "--json", tmp_path / "f.json", "--queries", tmp_path / "q.csv")
    assert (code, err) == (0, "")
    hits, other = np.array(ours) == 0, np.array(theirs) == 0
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["procedure"] == "videos"
    first = found["t2v"]["R@1"]
    apart = hits.astype(float) - other
    half = 1.96 * apart.std(ddof=1) / NUM_VIDEOS**0.5
    assert first["difference"] == pytest.approx(100 * apart.mean())
    ends = [100 * (apart.mean() + side * half) for side in (-1, 1)]
    assert (first["low"], first["high"]) == pytest.approx(ends, abs=1.7)
    assert first["a"] == [pytest.approx(100 * hits.mean())]
    assert first["p"] < first["p Holm"]
    assert found["t2v"]["R@10"]["difference"] == 0
    won, lost = int((hits & ~other).sum()), int((other & ~hits).sum())
    p = stats.binomtest(won, won + lost).pvalue
    assert found["t2v"]["McNemar"] == {"won": won, "lost": lost, "p": pytest.approx(p)}
    assert (found["t2v"]["won"], found["t2v"]["lost"]) == (won, lost)
    assert f"{won} won, {lost} lost, p " in out
    assert "One run each: variation between seeds is not included" in out
    assert "Gains of 1 to 2 points from single runs" in out
    assert f"Text to video, won by A: {won}: v" in out
    with (tmp_path / "q.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["direction"] == "t2v"]
    listed = {row["query_id"]: (row["outcome"], row["rank_a"], row["rank_b"]) for row in rows}
    assert listed == {
        f"v{query}#0": ("won", "1", "8") if hits[query] else ("lost", "8", "1")
        for query in np.flatnonzero(hits != other)
    }
    assert [row["outcome"] for row in rows] == ["won"] * won + ["lost"] * lost


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", ranks(0)), write_run(tmp_path / "b", ranks(1))
    before = compare(a, b)
    table = pq.read_table(b / "evaluation" / "ranks.parquet")
    pq.write_table(table.take(np.arange(len(table))[::-1]), b / "evaluation" / "ranks.parquet")
    assert compare(a, b) == before


def test_mcnemar_does_not_apply_to_many_captions_or_ties(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", ranks(0), captions=3)
    b = write_run(tmp_path / "b", ranks(1), captions=3)
    out = compare(a, b)[1]
    assert "Text to video: McNemar's exact test does not apply (60 queries of 20 videos)" in out
    assert "Video to text: McNemar's exact test on hits at 1" in out
    ties = [0] * NUM_VIDEOS
    ties[5] = 2
    c = write_run(tmp_path / "c", [0] * NUM_VIDEOS, ties=ties)
    d = write_run(tmp_path / "d", ranks(2))
    assert "does not apply (1 query has a tie for the first place)" in compare(c, d)[1]


def test_seeds(tmp_path: Path) -> None:
    a = [write_run(tmp_path / f"a{s}", ranks(s, 0.6), seed=s) for s in range(3)]
    b = [write_run(tmp_path / f"b{s}", ranks(9 + s, 0.3), seed=s) for s in range(2)]
    figures, queries = tmp_path / "f.json", tmp_path / "q.parquet"
    options = ["--also-a", a[1], "--also-a", a[2], "--also-b", b[1]]
    code, out, err = compare(a[0], b[0], *options, "--json", figures, "--queries", queries)
    assert (code, err) == (0, "")
    found = json.loads(figures.read_text())
    assert found["procedure"] == "videos and seeds"
    first = found["t2v"]["R@1"]
    assert (len(first["a"]), len(first["b"])) == (3, 2)
    assert first["difference"] == pytest.approx(np.mean(first["a"]) - np.mean(first["b"]))
    assert f"{np.mean(first['a']):.1f} ± {np.std(first['a'], ddof=1):.1f}" in out
    assert "Student's t over videos and seeds (3 of A, 2 of B)" in out
    assert "does not apply (several runs of a method)" in out
    assert "single runs" not in out
    shares = {row["hit_a"] for row in pq.read_table(queries).to_pylist()}
    assert any(0.3 < share < 0.7 for share in shares)
    one = compare(a[0], b[0], "--also-a", a[1])[1]
    assert "B is a single run: its variation between seeds is not included" in one


def test_what_is_no_seed_of_the_same_method(tmp_path: Path) -> None:
    a, b, c = (write_run(tmp_path / n, ranks(s), seed=s) for s, n in enumerate("abc"))
    assert "have the same folder" in compare(a, b, "--also-a", a)[2]
    d = write_run(tmp_path / "d", ranks(4), seed=0)
    assert "have the same seed, 0" in compare(a, b, "--also-a", d)[2]
    record = json.loads((c / "run" / "record.json").read_text())
    record["settings"]["train"]["epochs"] = 6
    (c / "run" / "record.json").write_text(json.dumps(record))
    code, _, err = compare(a, b, "--also-a", c)
    assert code == 2
    assert "train.epochs is 6, there it is 5" in err
    (c / "run" / "record.json").unlink()
    assert "no run/record.json in" in compare(a, b, "--also-a", c)[1]


def test_runs_on_other_tests_are_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", ranks(0))

    def refused(other: Path) -> str:
        code, out, err = compare(a, other)
        assert (code, out) == (2, "")
        return err

    fewer = write_run(tmp_path / "fewer", ranks(1)[:-2])
    assert "different test sets: 2 of 60 t2v queries of" in refused(fewer)
    assert "the first is 'v58#0'" in refused(fewer)
    renamed = write_run(tmp_path / "renamed", ranks(1))
    change_ranks(renamed, "v3#0", query_id="w3#0")
    assert "1 of 60 t2v queries" in refused(renamed)
    moved = write_run(tmp_path / "moved", ranks(1))
    change_ranks(moved, "v3#0", video_id="v4")
    assert "1 t2v query belongs to other videos" in refused(moved)
    twice = write_run(tmp_path / "twice", ranks(1))
    change_ranks(twice, "v3#0", query_id="v4#0")
    assert "holds 1 t2v query twice" in refused(twice)
    split = write_run(tmp_path / "split", ranks(1), split="val")
    assert "has the split 'test'" in refused(split)
    group = write_run(tmp_path / "group", ranks(1), v2t_convention="best_caption_group")
    assert "has the v2t convention 'best_caption_of_all'" in refused(group)
    gallery = write_run(tmp_path / "gallery", ranks(1), num_videos=99)
    assert "their galleries differ" in refused(gallery)
    dataset = write_run(tmp_path / "dataset", ranks(1))
    for run, name in ((a, "msrvtt"), (dataset, "msvd")):
        features = {"dataset": name, "extraction_id": name}
        (run / "features.json").write_text(json.dumps(features))
    assert "has the data set 'msrvtt'" in refused(dataset)


def test_folders_and_options_that_cannot_be_used(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", ranks(0)), write_run(tmp_path / "b", ranks(1))
    assert "holds no evaluation/metrics.json" in compare(a, tmp_path)[2]
    assert "is given on both sides" in compare(a, a)[2]
    assert "unknown method 'zero_shot'; known: head" in compare(a, b, "--method-b", "zero_shot")[2]
    assert "must end in .parquet or .csv" in compare(a, b, "--queries", tmp_path / "q.txt")[2]
    one = [write_run(tmp_path / f"one{n}", [0, 1], captions=2) for n in range(2)]
    assert "has queries of 1 video; 2 are needed" in compare(*one)[2]


def test_runs_that_were_really_evaluated(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    outputs = []
    for seed in range(2):
        change_params(project, train__seed=seed, train__epochs=1)
        outputs.append(project / f"seed{seed}")
        workspace = Workspace(project, params(project), outputs[-1])
        for stage in (prepare, extract, train, evaluate):
            stage(workspace)  # type: ignore[operator]
    code, out, err = compare(*outputs)
    assert (code, err) == (0, "")
    assert "test split, 6 captions, 3 videos" in out
    code, out, err = compare(
        outputs[0], outputs[0], "--also-a", outputs[1], "--method-b", "zero_shot"
    )
    assert (code, err) == (0, "")
    assert "B is a single run" in out
    change_params(project, evaluate__split="val")
    evaluate(Workspace(project, params(project), outputs[1]))
    assert "has the split 'test'" in compare(*outputs)[2]
