import json

from gare_cache.studies.expansion import expand
from gare_cache.studies.result import StudyResult, study_notes
from gare_cache.studies.results import history_table, ranks_table, runs_table
from gare_cache.studies.study import METRIC_KEYS, parse_study
from gare_cache.studies.table import study_rows
from tests.studies.made import BASE, content, run_result, scored_run, split_result


def test_runs_with_their_settings() -> None:
    heads = [{"gap": None, "n": 1}, {"gap": {"heads": 2}, "n": 0.5}]
    settings = [{"head": head, "train": {"on": [1, 2]}} for head in heads]
    runs = [
        run_result("a", 0, settings=settings[0], splits={"val": split_result([0], r1=50.0)}),
        run_result("b", 1, settings=settings[1], reason="no"),
    ]
    rows = runs_table(runs).to_pylist()
    shown = ("variant", "seed", "status", "reason")
    assert [rows[0][key] for key in shown] == ["a", 0, "done", None]
    assert [rows[1][key] for key in shown] == ["b", 1, "failed", "no"]
    assert [row["head.gap.heads"] for row in rows] == [None, 2]
    assert [row["head.n"] for row in rows] == [1.0, 0.5]
    assert [row["train.on"] for row in rows] == ["[1, 2]", "[1, 2]"]
    assert "head.gap" not in rows[0]
    assert [row["val.v2t.R@10"] for row in rows] == [50.0, None]
    assert {f"val.{key}" for key in METRIC_KEYS} <= set(rows[0])
    assert not any(name.startswith("test.") for name in rows[0])


def test_a_setting_of_two_kinds_is_text() -> None:
    runs = [run_result("a", 0, settings={"x": 1}), run_result("b", 0, settings={"x": "auto"})]
    assert runs_table(runs)["x"].to_pylist() == ["1", "auto"]


def test_ranks() -> None:
    splits = {
        "val": split_result([2, None], r1=0.0, direction="t2v"),
        "test": split_result([0], r1=0.0, direction="v2t"),
    }
    table = ranks_table([run_result("a", 4, splits=splits), run_result("b", 0, reason="no")])
    common = {"variant": "a", "seed": 4}
    assert table.to_pylist() == [
        {**common, "split": "val", "direction": "t2v", "query_id": "q00", "video_id": "v00"}
        | {"ahead": 2, "ties": 0, "rank": 3.0},
        {**common, "split": "val", "direction": "t2v", "query_id": "q01", "video_id": "v01"}
        | {"ahead": None, "ties": None, "rank": None},
        {**common, "split": "test", "direction": "v2t", "query_id": "q00", "video_id": "v00"}
        | {"ahead": 0, "ties": 0, "rank": 1.0},
    ]
    assert ranks_table([]).num_rows == 0


def test_history() -> None:
    epoch = {"epoch": 1, "learning_rate": 0.1, "scale": 20.0}
    validation = {"t2v R@1": 10.0, "v2t R@1": 20.0, "score": 15.0}
    losses = {"total": 2.0, "contrastive": 1.5}
    logs = [
        [{**epoch, "losses": losses, "validation": validation}],
        [{**epoch, "losses": {**losses, "ib": 0.5}, "validation": validation}],
    ]
    runs = [run_result(name, 0, history=log) for name, log in zip("ab", logs, strict=True)]
    rows = history_table(runs).to_pylist()
    figures = {"learning_rate": 0.1, "scale": 20.0, "loss.total": 2.0, "loss.contrastive": 1.5}
    validated = {"val.t2v.R@1": 10.0, "val.v2t.R@1": 20.0, "val.score": 15.0}
    assert rows == [
        {"variant": "a", "seed": 0, "epoch": 1, **figures, **validated, "loss.ib": None},
        {"variant": "b", "seed": 0, "epoch": 1, **figures, **validated, "loss.ib": 0.5},
    ]
    assert history_table([]).num_rows == 0


def test_the_document() -> None:
    rows_published = {"alpha=1.0": {"t2v.R@1": 48.5}}
    study = parse_study(
        "s", content(published={"source": "p", "note": "n", "dataset": {}, "rows": rows_published})
    )
    variants = expand(study, BASE)
    runs = [
        scored_run("alpha=1.0", 0, [0, 3], r1=50.0, score=2.0),
        scored_run("alpha=2.0", 0, [0, 0], r1=99.0, score=1.0),
        run_result("alpha=3.0", 0, reason="no"),
    ]
    rows = study_rows(
        variants,
        runs,
        reference=study.reference,
        split="val",
        missing="drop",
        resamples=10,
        published=rows_published,
    )
    notes = study_notes(study, variants, runs, rows)
    protocol = {**variants[0].params.evaluate.model_dump(exclude={"split"}), "coverage": "all"}
    result = StudyResult(
        study, "val", rows, protocol=protocol, notes=notes, record={"device": "cpu"}
    )
    document = result.to_json()
    assert json.loads(json.dumps(document)) == document
    assert document["axes"] == [{"name": "train.loss.dir.alpha", "values": ["1.0", "2.0", "3.0"]}]
    assert document["variants"][0] == {
        "name": "alpha=1.0",
        "axis_values": {"train.loss.dir.alpha": "1.0"},
        "changes": {"train.loss.dir.alpha": 1.0},
    }
    assert (document["split"], document["final"], document["ledger"]) == ("val", False, None)
    assert document["protocol"]["captions"] == "all"
    assert document["published"] == {"source": "p", "note": "n"}
    first, reference, failed = document["table"]
    assert (first["variant"], first["rank"], first["published"]) == (
        "alpha=1.0",
        1,
        {"t2v.R@1": 48.5},
    )
    assert set(first["difference"]["t2v.R@1"]) >= {
        *("points", "low", "high", "p", "p_holm", "distinguishable", "detectable")
    }
    assert (reference["difference"], reference["std"], reference["published"]) == (None, None, None)
    assert (failed["n"], failed["failed"], failed["rank"]) == (0, ["seed 0: no"], None)
    assert notes == [
        "3 of 6 runs are not trained yet; run the study again",
        "1 of 6 runs failed; their rows say why",
    ]


def test_notes_say_what_differs_between_runs() -> None:
    study = parse_study("s", content(seeds=[0]))
    variants = expand(study, BASE)
    versions = [{"versions": {"torch": version}, "processor": "p"} for version in ("2.4", "2.5")]
    runs = [
        run_result(v.name, 0, splits={"val": split_result([0, 0], r1=0.0)}, provenance=p, device=d)
        for v, p, d in zip(variants, [*versions, versions[0]], ("cpu", "cuda", "cpu"), strict=True)
    ]
    one_seed, devices, torch = study_notes(study, variants, runs, [])
    assert one_seed.startswith("one seed per row")
    assert devices == "runs were made with different devices: cpu, cuda"
    assert torch == "runs were made with different versions of torch: 2.4, 2.5"
