import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from gare_cache.errors import ConfigError
from gare_cache.evaluation.metrics import QueryRanks
from gare_cache.studies.report.write import read_study, study_report
from tests.studies.report.sample import make_captions, make_pictures, write_study


@pytest.fixture
def folder(tmp_path):
    return write_study(
        tmp_path / "GARE's losses", num_videos=40, seeds=(0, 1, 2), failed=[(4, 2, "disk full")]
    )


def change_study(folder, **changes):
    path = folder / "study.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_three_files_are_written_and_the_same_input_gives_the_same_bytes(folder):
    options = {"captions": make_captions(40), "pictures": make_pictures(40)}
    paths = study_report(folder, **options)
    assert [path.name for path in paths] == ["report.html", "report.md", "table.tex"]
    assert {path.parent for path in paths} == {folder}
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in study_report(folder, **options)] == first
    assert rb"\label{tab:gare-s-losses}" in first[2]
    assert not list(folder.glob("*.partial"))


def test_the_tables_numbers_are_those_of_the_runs(folder):
    study_report(folder)
    runs = pq.read_table(folder / "runs.parquet")
    lines = (folder / "report.md").read_text().splitlines()
    for name in pc.unique(runs["variant"]).to_pylist():
        own = runs.filter(pc.equal(runs["variant"], name)).filter(
            pc.equal(runs.filter(pc.equal(runs["variant"], name))["status"], "done")
        )
        cells = next(line for line in lines if line.startswith(f"| {name} |")).split(" | ")
        for column, cell in (("val.t2v.R@1", 3), ("val.t2v.R@5", 5), ("val.v2t.R@1", 7)):
            values = own[column].to_numpy()
            assert cells[cell] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def test_hits_and_ranks_are_means_over_the_runs_that_finished(folder):
    content = read_study(folder, {}, {})
    rows = pq.read_table(folder / "ranks.parquet").to_pylist()
    for direction, queries in content.queries.items():
        place = {text: column for column, text in enumerate(queries.texts)}
        assert len(place) == 40
        for number, name in enumerate(queries.variants):
            of_query: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                if (row["variant"], row["direction"]) == (name, direction):
                    one = QueryRanks(np.array([row["ahead"]]), np.array([row["ties"]]))
                    hit = float(one.hits(1)[0])
                    of_query.setdefault(row["query_id"], []).append((hit, row["rank"]))
                    assert queries.video_ids[place[row["query_id"]]] == row["video_id"]
            for query, found in of_query.items():
                assert len(found) == (2 if name == "eps + dir" else 3)
                hit, rank = np.mean(found, axis=0)
                assert queries.hits[number, place[query]] == pytest.approx(hit, abs=1e-12)
                assert queries.ranks[number, place[query]] == pytest.approx(rank, abs=1e-12)


def test_captions_and_ids_name_the_queries(folder):
    captions = make_captions(40)
    content = read_study(folder, {"video3#0": captions["video3#0"]}, {})
    assert captions["video3#0"] in content.queries["t2v"].texts
    assert "video4#0" in content.queries["t2v"].texts
    assert set(content.queries["v2t"].texts) == {f"video{number}" for number in range(40)}


def test_a_query_without_features_is_left_out_and_one_that_a_run_lacks_is_no_hit(folder):
    table = pq.read_table(folder / "ranks.parquet")
    everywhere = pc.equal(table["query_id"], "video5#0")
    in_one = pc.and_(pc.equal(table["query_id"], "video6#0"), pc.equal(table["variant"], "ib"))
    gone = pc.or_(everywhere, in_one)
    for name in ("ahead", "ties", "rank"):
        values = pc.if_else(gone, pa.scalar(None, table[name].type), table[name])
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, folder / "ranks.parquet")
    queries = read_study(folder, {}, {}).queries["t2v"]
    assert "video5#0" not in queries.texts
    place = queries.texts.index("video6#0")
    own = queries.variants.index("ib")
    assert queries.hits[own, place] == 0
    assert np.isnan(queries.ranks[own, place])
    assert np.isfinite(np.delete(queries.ranks[:, place], own)).all()


def test_the_shown_split_decides_which_ranks_and_metrics_are_read(folder, tmp_path):
    ranks = pq.read_table(folder / "ranks.parquet")
    other = ranks.set_column(
        ranks.column_names.index("split"), "split", pa.array(["test"] * ranks.num_rows)
    ).set_column(ranks.column_names.index("ahead"), "ahead", pc.add(ranks["ahead"], 50))
    both = pa.concat_tables([ranks, other])
    expected = read_study(folder, {}, {}).queries["t2v"]
    pq.write_table(both, folder / "ranks.parquet")
    np.testing.assert_array_equal(read_study(folder, {}, {}).queries["t2v"].hits, expected.hits)
    test = write_study(tmp_path / "test", num_videos=40, seeds=(0,), split="test")
    runs = pq.read_table(test / "runs.parquet").to_pylist()
    content = read_study(test, {}, {})
    assert content.variants[1].runs[0].metrics["t2v.R@1"] == runs[1]["test.t2v.R@1"]
    assert content.heading == "GARE's regularisers: test split"


def test_curves_are_read_by_run_and_epochs_without_validation_are_left_out(folder):
    rows = pq.read_table(folder / "history.parquet").to_pylist()
    rows[1]["val.score"] = None
    pq.write_table(pa.Table.from_pylist(rows), folder / "history.parquet")
    run = read_study(folder, {}, {}).variants[0].runs[0]
    own = [row for row in rows if (row["variant"], row["seed"]) == ("none", 0)]
    assert run.loss == {row["epoch"]: row["loss.total"] for row in own}
    assert run.score == {row["epoch"]: row["val.score"] for row in own if row["epoch"] != 2}


def test_facts_are_words(folder):
    change_study(
        folder,
        protocol={"captions": "all", "videos": 1000, "same": True, "digest": "d" * 64},
    )
    facts = dict(read_study(folder, {}, {}).facts)
    assert facts["Videos"] == "1,000"
    assert facts["Same"] == "yes"
    assert facts["Digest"] == "d" * 12
    assert facts["Seeds"] == "0, 1, 2"
    assert facts["Versions"] == "gare-cache 0.1.0, torch 2.6.0"
    assert facts["Extraction ids"] == "c" * 12


def test_published_numbers_always_come_with_a_caveat(folder):
    change_study(folder, published={"source": "a paper", "note": None})
    assert read_study(folder, {}, {}).published_note.startswith("They need not agree")
    change_study(folder, published=None)
    assert read_study(folder, {}, {}).published_note == ""


@pytest.mark.parametrize("name", ["study.json", "runs.parquet", "ranks.parquet", "history.parquet"])
def test_a_missing_file_names_the_command(folder, name):
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=rf"{name} does not exist; run .*gare-cache ablate"):
        study_report(folder)


def test_files_of_another_version_are_refused(folder):
    for name in ("history.parquet", "ranks.parquet", "runs.parquet"):
        table = pq.read_table(folder / name)
        pq.write_table(table.drop_columns(["seed"]), folder / name)
        with pytest.raises(ConfigError, match=r"lack .*seed.*another version"):
            study_report(folder)
        pq.write_table(table, folder / name)
    study = json.loads((folder / "study.json").read_text())
    del study["question"]
    (folder / "study.json").write_text(json.dumps(study))
    with pytest.raises(ConfigError, match=re.escape("lack 'question': another version")):
        study_report(folder)


def test_an_unknown_split_or_reference_names_the_known_ones(folder):
    change_study(folder, split="train")
    with pytest.raises(ConfigError, match="unknown split 'train'; known: test, val"):
        study_report(folder)
    change_study(folder, split="val", reference="nine")
    with pytest.raises(ConfigError, match="unknown reference 'nine'; did you mean 'none'"):
        study_report(folder)
