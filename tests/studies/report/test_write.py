import statistics

from gare_cache.studies.report.write import write_study_report
from tests.studies.report.sample import make_pictures, make_queries, make_study


def test_three_files_are_written_and_the_same_input_gives_the_same_bytes(tmp_path):
    result = make_study(num_videos=40, failed=[(4, 2, "disk full")])
    folder = tmp_path / "GARE's losses"
    shown = {"queries": make_queries(result), "pictures": make_pictures(40)}
    paths = write_study_report(folder, result, **shown)
    assert [path.name for path in paths] == ["report.html", "report.md", "table.tex"]
    assert {path.parent for path in paths} == {folder}
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_study_report(folder, result, **shown)] == first
    assert rb"\label{tab:gare-s-losses}" in first[2]
    assert not list(folder.glob("*.partial"))


def test_the_tables_numbers_are_those_of_the_runs(tmp_path):
    result = make_study(num_videos=40)
    write_study_report(tmp_path, result, queries={}, pictures={})
    lines = (tmp_path / "report.md").read_text().splitlines()
    for row in result.rows:
        cells = next(line for line in lines if line.startswith(f"| {row.name} |")).split(" | ")
        for metric, cell in (("t2v.R@1", 4), ("t2v.R@5", 6), ("v2t.R@1", 8)):
            values = [run.splits["val"].metrics[metric] for run in row.runs]
            spread = statistics.stdev(values)
            assert cells[cell] == f"{statistics.mean(values):.1f} ± {spread:.1f}"
