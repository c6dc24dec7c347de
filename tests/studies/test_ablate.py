"""Studies on the tiny project: resumed, failing, in processes, final, checked."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.files import finite_or_none, read_json
from gare_cache.project import ledger
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from gare_cache.studies import batching
from gare_cache.studies import estimate as ablate_estimate
from gare_cache.studies import workers as ablate_workers
from gare_cache.studies.ablate import ablate
from gare_cache.studies.study import METRIC_KEYS
from tests.tiny import change_params, make_project, workspace

STUDY: dict[str, Any] = {
    "title": "directions",
    "question": "which alpha?",
    "base": "params.yaml",
    "set": {"train.epochs": 2},
    "axes": {"train.loss.dir.alpha": [1.0, 2.0]},
    "seeds": [0, 1],
    "reference": "alpha=2.0",
}
FAILING = {
    "axes": {
        "head": {
            "works": {},
            "fails": {"train.num_frames": 9},
        }
    },
    "reference": "works",
    "seeds": [0],
}


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    # What a trial finds depends on the machine, and with it the last bits of a run.
    monkeypatch.setattr(batching, "program_seconds", lambda tasks: (1.0, 2.0))


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("ablate") / "project", tiny_encoder_dir)
    for stage in (prepare, extract):
        stage(workspace(folder))
    return folder


def write_study(project: Path, name: str = "alpha", **changes: Any) -> Path:
    file = project / "studies" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return file


def command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["ablate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def document(project: Path, name: str = "alpha") -> Any:
    return json.loads((project / "outputs/studies" / name / "study.json").read_text())


def run_files(project: Path) -> dict[Path, int]:
    files = (project / ".gare/runs").rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_a_study_from_plan_to_table(extracted: Path) -> None:
    study = write_study(extracted, "whole", set={"train.epochs": 3})
    code, plan, _ = command(study, "--dry-run")
    assert code == 0
    assert "2 variants x 2 seeds = 4 runs on params.yaml; 4 to do, about " in plan
    assert not (extracted / ".gare/runs").exists()
    assert not (extracted / "outputs/studies/whole").exists()

    code, out, err = command(study)
    assert code == 0, err
    assert "[4/4] alpha=2.0, seed 1: done" in err
    assert out.startswith("Validation split: 3 of 3 val videos, 6 of 6 captions; n: seeds")
    folder = extracted / "outputs/studies/whole"
    assert out.strip().splitlines()[-1] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "blocks number 0 of val" in page
    assert "data:image/jpeg" in page
    found = document(extracted, "whole")
    assert re.search(r"alpha=2\.0 +\d +2 ", out)
    assert out.count("not distinguishable") == 1
    assert [row["n"] for row in found["table"]] == [2, 2]
    ranks, scores = zip(*((r["rank"], r["validation_score"]) for r in found["table"]), strict=True)
    assert list(ranks) == ([1, 1] if scores[0] == scores[1] else [1, 2])
    assert (found["split"], found["ledger"], found["notes"]) == ("val", None, [])
    assert found["record"]["revision"] == ledger.git_revision(extracted)
    assert ledger.read(workspace(extracted).ledger) == []

    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    assert [(row["variant"], row["seed"], row["status"]) for row in rows] == [
        ("alpha=1.0", 0, "done"),
        ("alpha=1.0", 1, "done"),
        ("alpha=2.0", 0, "done"),
        ("alpha=2.0", 1, "done"),
    ]
    assert [row["train.loss.dir.alpha"] for row in rows] == [1.0, 1.0, 2.0, 2.0]
    for row in rows:
        assert row["train.seed"] == row["seed"]
        assert row["seconds"] > 0
        assert row["parameters"] > 0
        assert row["scoring"] in ("exact", "dense")
        assert row["run_key"] in found["record"]["run_keys"]
        assert (extracted / ".gare/runs" / row["run_key"] / "run.json").is_file()
        assert all(row[f"val.{key}"] is not None for key in METRIC_KEYS)
    history = pq.read_table(folder / "history.parquet").to_pylist()
    assert len(history) == 4 * 3
    best = next(h for h in history if h["variant"] == "alpha=1.0" and h["seed"] == 0)
    assert best["loss.total"] > best["loss.contrastive"] > 0
    ranks = pq.read_table(folder / "ranks.parquet").to_pylist()
    assert len(ranks) == 4 * (6 + 3)
    hits = [rank["rank"] == 1 for rank in ranks if rank["direction"] == "t2v"][:6]
    assert rows[0]["val.t2v.R@1"] == pytest.approx(100 * sum(hits) / 6)

    before = run_files(extracted)
    assert "0 to do" in command(study)[2]
    assert run_files(extracted) == before


def test_a_study_trains_what_train_trains(extracted: Path) -> None:
    study = write_study(extracted, "same", seeds=[0], set={"train.epochs": 3})
    ablate(study)
    rows = pq.read_table(extracted / "outputs/studies/same/runs.parquet").to_pylist()
    key = next(row["run_key"] for row in rows if row["variant"] == "alpha=2.0")
    record = train(workspace(extracted))
    assert record["run_key"] == key
    ours, theirs = (
        load_file(folder / "run/head.safetensors")
        for folder in (extracted / ".gare/runs" / key, extracted / "outputs")
    )
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_studies_share_runs_and_limit_stops_early(extracted: Path) -> None:
    first = write_study(extracted, "first", set={"train.epochs": 1})
    code, _, err = command(first, "--limit", 3)
    assert (code, "[3/3]" in err) == (0, True)
    found = document(extracted, "first")
    assert found["notes"] == ["1 of 4 runs are not trained yet; run the study again"]
    assert sorted(row["n"] for row in found["table"]) == [1, 2]
    second = write_study(
        extracted, "second", set={"train.epochs": 1}, axes={"train.loss.dir.alpha": [2.0, 3.0]}
    )
    code, plan, _ = command(second, "--dry-run")
    assert "alpha=3.0  train.loss.dir.alpha=3.0  2 missing" in plan
    assert "2 to do" in plan.splitlines()[-1] or "3 to do" in plan.splitlines()[-1]
    assert ", about " in plan.splitlines()[-1]


def test_a_failing_variant_is_a_row_and_stops_nothing(extracted: Path) -> None:
    study = write_study(extracted, "failing", **FAILING)
    code, out, _ = command(study)
    assert code == 0
    reason = "train.num_frames is 9, but"
    assert f"failed: fails, seed 0: {reason}" in out
    rows = {row["variant"]: row for row in document(extracted, "failing")["table"]}
    assert (rows["fails"]["n"], rows["works"]["n"]) == (0, 1)
    assert reason in rows["fails"]["failed"][0]
    table = pq.read_table(extracted / "outputs/studies/failing/runs.parquet").to_pylist()
    assert [(row["status"], bool(row["reason"])) for row in table] == [
        ("done", False),
        ("failed", True),
    ]
    assert "1 failed" in command(study, "--dry-run")[1]
    assert "[1/1]" not in command(study)[2]
    assert "[1/1] fails, seed 0: failed" in command(study, "--retry-failed")[2]


def test_processes_give_the_same_bytes(extracted: Path) -> None:
    study = write_study(extracted, "jobs", set={"train.epochs": 4}, seeds=[0])
    code, _, err = command(study, "--jobs", 2)
    assert code == 0, err
    assert "[2/2]" in err
    assert command(study, "--check", 2)[0] == 0


def test_a_process_that_dies_is_a_failed_run(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(extracted, "dying", set={"train.epochs": 5}, seeds=[0, 1])
    monkeypatch.setattr(ablate_workers, "_work", _die_on_the_second_seed)
    code, _, err = command(study, "--jobs", 2)
    assert code == 0, err
    rows = document(extracted, "dying")["table"]
    assert [row["n"] for row in rows] == [1, 1]
    assert all("its process died (signal SIGKILL; out of memory?)" in r["failed"][0] for r in rows)


@pytest.mark.slow
def test_a_process_that_is_stopped_is_a_failed_run(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(extracted, "stopping", seeds=[0, 1], axes={"train.loss.dir.alpha": [2.0]})
    monkeypatch.setattr(ablate_workers, "_work", _stop_on_the_second_seed)
    monkeypatch.setattr(ablate_workers, "_BEAT_SECONDS", 0.5)
    monkeypatch.setattr(ablate_workers, "_SILENCE_SECONDS", 20.0)
    code, _, err = command(study, "--jobs", 2)
    assert code == 0, err
    rows = document(extracted, "stopping")["table"]
    assert [row["n"] for row in rows] == [1]
    assert all("its process was stopped or hung for 20 s" in r["failed"][0] for r in rows)


def _stop_on_the_second_seed(connection: Any, threads: int) -> None:
    real = ablate_workers.execute

    def execute_or_stop(task: Any, **options: Any) -> None:
        if task.params.train.seed == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        real(task, **options)

    ablate_workers.execute = execute_or_stop
    ablate_workers._work(connection, threads)


def _die_on_the_second_seed(connection: Any, threads: int) -> None:
    task = connection.recv()
    if task.params.train.seed == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ablate_workers.execute(task, load=ablate_workers.KeptSplits().of(task.inputs))
    connection.send(None)
    task = connection.recv()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_killed_and_started_again_it_redoes_nothing(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write_study(extracted, "killed", set={"train.epochs": 25})
    program = "from gare_cache.cli import main; main()"
    arguments = [sys.executable, "-c", program, "ablate", "--batched", "off"]
    process = subprocess.Popen([*arguments, str(study)], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/4]"):
            break
    runs = extracted / ".gare/runs"
    deadline = time.monotonic() + 60
    while not any(runs.glob("*/state/*/training.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    plan = command(study, "--dry-run")[1]
    assert "1 done, 1 missing" in plan
    assert "1 unfinished, 1 missing" in plan
    before = run_files(extracted)
    code, _, err = command(study)
    assert code == 0
    assert "3 to do" in err
    finished = {path.parent for path in before if path.name == "run.json"}
    after = run_files(extracted)
    assert all(after[path] == time_ for path, time_ in before.items() if finished & {*path.parents})
    rows = pq.read_table(extracted / "outputs/studies/killed/runs.parquet").to_pylist()
    # The one that went on does not know its seconds; its weights are those of a whole run.
    (resumed,) = [number for number, row in enumerate(rows) if row["seconds"] is None]
    assert not any(runs.glob("*/state"))
    again = write_study(
        extracted, "killed", set={"train.epochs": 25}, seeds=[rows[resumed]["seed"]]
    )
    row = [1.0, 2.0].index(rows[resumed]["train.loss.dir.alpha"]) + 1
    code, out, err = command(again, "--check", row)
    assert code == 0, err
    assert "weights, validation ranks and validation scores are bit for bit equal" in out


def test_test_is_scored_once_and_only_with_final(
    tmp_path: Path, extracted: Path, tiny_encoder_dir: Path
) -> None:
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    for stage in (prepare, extract):
        stage(workspace(project))
    study = write_study(project)
    space = workspace(project)
    code, _, err = command(study, "--final")
    assert code == 2
    assert "is not finished: 4 of 4 runs are left" in err
    command(study)
    assert ledger.read(space.ledger) == []
    code, out, err = command(study, "--final")
    assert code == 0, err
    assert out.startswith("Test split, final: 3 of 3 test videos")
    entries = ledger.read(space.ledger)
    assert len(entries) == 4
    found = document(project)
    assert {entry.run_key for entry in entries} == {*found["record"]["run_keys"]}
    assert (found["split"], found["final"]) == ("test", True)
    assert found["ledger"] == (
        "test scored 4 times by this study's runs, 4 times by 4 runs of this project"
    )
    folder = project / "outputs/studies/alpha"
    runs = pq.read_table(folder / "runs.parquet")
    assert None not in runs["test.t2v.R@1"].to_pylist()
    assert {*pq.read_table(folder / "ranks.parquet")["split"].to_pylist()} == {"val", "test"}
    first = (folder / "study.json").read_text()
    assert command(study, "--final")[1] == out
    assert ledger.read(space.ledger) == entries
    assert (folder / "study.json").read_text() == first
    command(study)
    assert document(project)["split"] == "val"


def test_check_says_what_differs(extracted: Path) -> None:
    study = write_study(extracted, "check", set={"train.epochs": 6}, seeds=[1])
    code, _, err = command(study, "--check")
    assert code == 2
    assert "no run of 'alpha=1.0' is done" in err
    ablate(study)
    stored = run_files(extracted)
    code, out, _ = command(study, "--check")
    assert code == 0
    assert out.startswith(
        "alpha=1.0, seed 1: weights, validation ranks and validation scores are bit for bit equal"
    )
    assert run_files(extracted) == stored
    assert "rows 1 to 2" in command(study, "--check", 3)[2]
    assert "without --check" in command(study, 1)[2]

    key = pq.read_table(extracted / "outputs/studies/check/runs.parquet")["run_key"][0].as_py()
    run = extracted / ".gare/runs" / key / "run"
    with safe_open(run / "head.safetensors", framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(run / "head.safetensors")
    weights["logit_scale"] = weights["logit_scale"] + 0.5
    save_file(weights, run / "head.safetensors", metadata=metadata)
    record = read_json(run / "record.json")
    record["provenance"]["versions"]["torch"] = "1.0"
    (run / "record.json").write_text(json.dumps(record))
    code, out, err = command(study, "--check")
    assert (code, out) == (3, "")
    assert "1 of" in err
    assert "tensors differ, by 0.5 at most" in err
    assert "versions.torch was '1.0' and is" in err


def test_variants_may_use_different_caches(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    study = write_study(
        project,
        "frames",
        axes={"extract.max_frames_cached": [4, 5]},
        reference="max_frames_cached=4",
        seeds=[0],
    )
    code, _, err = command(study)
    assert code == 2
    assert "variant 'max_frames_cached=4' has no complete features" in err
    assert f"run `gare-cache ablate {study} --extract`" in err
    assert err.count("\n") == 1
    for stage in (prepare, extract):
        stage(workspace(project))
    code, _, err = command(study)
    assert code == 2
    assert "variant 'max_frames_cached=5' has no complete features" in err
    assert not (project / ".gare/runs").exists()
    code, _, err = command(study, "--extract")
    assert code == 0, err
    assert len(document(project, "frames")["record"]["extraction_ids"]) == 2
    ids = pq.read_table(project / "outputs/studies/frames/runs.parquet")["extraction_id"]
    assert len({*ids.to_pylist()}) == 2
    assert command(study)[0] == 0
    # Settings that were changed behind the features' back are seen.
    change_params(project, extract__max_frames_cached=6)
    study = write_study(project, "other", seeds=[0])
    code, _, err = command(study)
    assert code == 2
    assert "was extracted with extract.max_frames_cached 4, the settings say 6" in err


def test_features_that_lack_a_video_are_incomplete(tmp_path: Path, tiny_encoder_dir: Path) -> None:
    project = make_project(tmp_path / "project", tiny_encoder_dir)
    for stage in (prepare, extract):
        stage(workspace(project))
    study = write_study(project, seeds=[0])
    with (project / "captions.csv").open("a") as file:
        file.write("train0,another caption,train\n")
    prepare(workspace(project))
    code, _, err = command(study)
    assert code == 2
    assert "1 of 29 text rows are not in" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "alpha=2"}, "did you mean 'alpha=2.0'"),
        ({"base": "nowhere.yaml"}, "base is 'nowhere.yaml', but"),
        ({"seeds": [0, 0]}, "seeds holds 0 twice"),
        ({"set": {"train.epoch": 2}}, "did you mean 'train.epochs'"),
    ],
)
def test_a_faulty_study_is_one_line(extracted: Path, changes: dict[str, Any], message: str) -> None:
    code, out, err = command(write_study(extracted, "faulty", **changes))
    assert (code, out) == (2, "")
    assert message in err
    assert "faulty.yaml" in err or "base" in err
    assert err.count("\n") == 1


def test_a_preset_may_be_the_base(extracted: Path) -> None:
    study = write_study(extracted, "preset", base="generic", seeds=[0])
    code, _, err = command(study)
    assert code == 2
    assert "variant 'alpha=1.0' has no complete features" in err


def test_rows_after_normalisers_share_one_training(extracted: Path) -> None:
    axes = {
        "scores": {
            "raw": {},
            "nnn": {"evaluate.normalisers": [{"name": "nnn"}]},
            "dsl": {"evaluate.normalisers": [{"name": "dsl"}]},
        }
    }
    study = write_study(extracted, "scores", axes=axes, reference="raw", seeds=[0])
    code, _, err = command(study, "--set", "train.epochs=1")
    assert code == 0, err
    folder = extracted / "outputs/studies/scores"
    rows = pq.read_table(folder / "runs.parquet").to_pylist()
    assert len({row["run_key"] for row in rows}) == 1
    assert {row["train.epochs"] for row in rows} == {1}
    ranks = pq.read_table(folder / "ranks.parquet").to_pylist()
    of_row = {
        row["variant"]: [r["ahead"] for r in ranks if r["variant"] == row["variant"]]
        for row in rows
    }
    assert {len(values) for values in of_row.values()} == {6 + 3}
    for path in (extracted / ".gare/runs" / rows[0]["run_key"]).glob("val-*/metrics.json"):
        metrics = json.loads(path.read_text())
        if "normalisers" not in metrics:
            continue
        row = metrics["normalisers"]["rows"][1]
        stored = next(r for r in rows if r["variant"] == row["name"])
        for direction in ("t2v", "v2t"):
            for metric in ("R@1", "R@5", "MnR"):
                assert finite_or_none(stored[f"val.{direction}.{metric}"]) == row[direction][metric]
    notes = document(extracted, "scores")["notes"]
    assert any("transductive" in note and ": dsl;" in note for note in notes)


def test_a_row_is_scored_after_one_normaliser(extracted: Path) -> None:
    two = {"evaluate.normalisers": [{"name": "nnn"}, {"name": "csls"}]}
    axes = {"scores": {"raw": {}, "two": two}}
    study = write_study(extracted, "two", axes=axes, reference="raw")
    code, _, err = command(study)
    assert code == 2
    assert "variant 'two': evaluate.normalisers names 2; a row of a study is scored after" in err


def test_a_trial_that_fails_in_any_way_stops_no_study(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("of a head of one's own, in its backward pass")

    monkeypatch.setattr(ablate_estimate, "train_head", broken)
    study = write_study(extracted, "trial", seeds=[7])
    code, plan, err = command(study, "--dry-run")
    assert code == 0, err
    assert "2 to do, unknown until a run is done" in plan


def test_runs_train_together_and_say_so(extracted: Path) -> None:
    study = write_study(
        extracted, "together", set={"train.epochs": 2, "train.loss.ib.weight": 0.02}
    )
    code, _, err = command(study, "--batched", "on", "--limit", "3")
    assert code == 0, err
    assert "trained together" not in err
    code, _, err = command(study, "--batched", "on")  # one run is left, and begins alone
    assert code == 2
    assert "--batched on, and no two missing runs can train together" in err
    code, out, err = command(study, "--batched", "auto")
    assert code == 0, err
    rows = pq.read_table(extracted / "outputs/studies/together/runs.parquet").to_pylist()
    together = [row for row in rows if row["trained"] == "batched"]
    assert [row["status"] for row in rows] == ["done"] * 4
    assert len(together) == 2  # of one alpha, the others have no partner
    assert "different forms of training: batched, solo" in out.replace("\n", " ")
    keys = [row["run_key"] for row in together]
    for row in rows:
        folder = extracted / ".gare/runs" / row["run_key"]
        record = read_json(folder / "run.json")
        assert record["trained"] == row["trained"]
        assert read_json(folder / "run/record.json")["trained"] == row["trained"]
        assert record["together"] == (keys if row in together else [row["run_key"]])
    number = 1 if together[0]["variant"] == "alpha=1.0" else 2
    code, out, err = command(study, "--check", str(number))
    assert code == 0, err
    assert "it was trained together with 1 other run" in err
    assert "bit for bit equal" in out

    code, _, err = command(study, "--batched", "off")
    assert code == 0, err
    rows = pq.read_table(extracted / "outputs/studies/together/runs.parquet").to_pylist()
    assert [row["trained"] for row in rows] == ["solo"] * 4
    assert not {row["run_key"] for row in rows} & set(keys)


@pytest.mark.parametrize(("together", "trained"), [(0.5, "batched"), (1.5, "solo")])
def test_a_trial_decides_whether_runs_train_together(
    extracted: Path, monkeypatch: pytest.MonkeyPatch, together: float, trained: str
) -> None:
    tried: list[int] = []

    def trial(tasks: Any) -> tuple[float, float]:
        seconds = ablate_estimate.program_seconds(tasks)
        assert min(seconds) > 0
        tried.append(len(tasks))
        return 1.0, together

    monkeypatch.setattr(batching, "program_seconds", trial)
    study = write_study(
        extracted, f"trial_{trained}", set={"train.epochs": 1, "train.loss.ib.weight": together}
    )
    code, _, err = command(study)
    assert code == 0, err
    assert f"they take {together:.2f} of the time alone" in err
    assert tried == [2, 2]  # one trial of each alpha
    rows = pq.read_table(extracted / f"outputs/studies/trial_{trained}/runs.parquet").to_pylist()
    assert {row["trained"] for row in rows} == {trained}


def test_a_run_that_fails_among_others_is_a_row(
    extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {"train.learning_rate": [0.001, 1e30]}
    study = write_study(
        extracted, "broken", axes=rates, reference="learning_rate=0.001", seeds=[5, 6]
    )
    code, out, err = command(study, "--batched", "on")
    assert code == 0, err
    assert "2 of 4 runs failed" in out
    rows = pq.read_table(extracted / "outputs/studies/broken/runs.parquet").to_pylist()
    by_status = {(row["train.learning_rate"], row["status"]) for row in rows}
    assert by_status == {(0.001, "done"), (1e30, "failed")}
    assert all("no longer finite" in row["reason"] for row in rows if row["status"] == "failed")
    assert {row["trained"] for row in rows} == {"batched"}
