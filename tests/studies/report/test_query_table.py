import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from gare_cache.evaluation.metrics import QueryRanks
from gare_cache.studies.report.query_table import query_tables
from gare_cache.studies.results import ranks_table
from tests.studies.report.sample import make_captions, make_queries, make_study


@pytest.fixture(scope="module")
def study():
    return make_study(num_videos=40, failed=[(4, 2, "disk full")])


def ranks_of(study):
    return ranks_table(run for row in study.rows for run in row.runs)


def tables_of(study, ranks, captions=None):
    return query_tables(ranks, study.split, [row.name for row in study.rows], captions or {})


def test_hits_and_ranks_are_means_over_the_runs_that_finished(study):
    rows = ranks_of(study).to_pylist()
    for direction, queries in make_queries(study, captions=False).items():
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


def test_captions_and_ids_name_the_queries(study):
    captions = make_captions(40)
    tables = tables_of(study, ranks_of(study), {"video3#0": captions["video3#0"]})
    assert captions["video3#0"] in tables["t2v"].texts
    assert "video4#0" in tables["t2v"].texts
    assert set(tables["v2t"].texts) == {f"video{number}" for number in range(40)}


def test_a_query_without_features_is_left_out_and_one_that_a_run_lacks_is_no_hit(study):
    table = ranks_of(study)
    everywhere = pc.equal(table["query_id"], "video5#0")
    in_one = pc.and_(pc.equal(table["query_id"], "video6#0"), pc.equal(table["variant"], "ib"))
    gone = pc.or_(everywhere, in_one)
    for name in ("ahead", "ties", "rank"):
        values = pc.if_else(gone, pa.scalar(None, table[name].type), table[name])
        table = table.set_column(table.column_names.index(name), name, values)
    queries = tables_of(study, table)["t2v"]
    assert "video5#0" not in queries.texts
    place = queries.texts.index("video6#0")
    lacking = queries.variants.index("ib")
    assert queries.hits[lacking, place] == 0
    assert np.isnan(queries.ranks[lacking, place])
    assert np.isfinite(np.delete(queries.ranks[:, place], lacking)).all()


def test_the_shown_split_alone_is_read(study):
    ranks = ranks_of(study)
    other = ranks.set_column(
        ranks.column_names.index("split"), "split", pa.array(["test"] * ranks.num_rows)
    ).set_column(ranks.column_names.index("ahead"), "ahead", pc.add(ranks["ahead"], 50))
    both = tables_of(study, pa.concat_tables([ranks, other]))["t2v"]
    np.testing.assert_array_equal(both.hits, tables_of(study, ranks)["t2v"].hits)


def test_no_finished_run_gives_no_table():
    nothing = make_study(seeds=(0,), failed=[(number, 0, "x") for number in range(7)])
    assert make_queries(nothing) == {}
