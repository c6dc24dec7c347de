"""The commands index and search, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gare_cache import cli
from gare_cache.errors import ConfigError
from gare_cache.stages.search import read_queries
from tests.tiny import write_video


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        write_video(tmp_path / f"clips/sub/v{number}.mp4", seed=number)
    (tmp_path / "clips/broken.mp4").write_bytes(b"no video")
    return tmp_path / "clips"


def test_from_a_folder_to_hits(folder: Path) -> None:
    output = run("index", folder, "--encoder", "demo")
    assert "3 videos can be searched (4 new, 0 changed, 0 removed)" in output
    assert "warning: 1 video has no features" in output
    assert 'next: gare-cache search "what the video shows" -p clips-index/params.yaml' in output
    params = "clips-index/params.yaml"
    output = run("search", "a red circle", "-p", params, "--json", "h.json", "--csv", "h.csv")
    assert "searched 3 videos" in output
    (found,) = json.loads(Path("h.json").read_text())
    assert found["query"] == "a red circle"
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
    rows = list(csv.DictReader(Path("h.csv").read_text().splitlines()))
    assert [row["video_id"] for row in rows] == [hit["video_id"] for hit in found["hits"]]
    for row in rows:
        assert row["path"] in output
        assert Path(row["path"]).is_file()
        assert float(row["start"]) <= float(row["best_time"]) <= float(row["end"])


def test_running_it_again_takes_what_changed(folder: Path) -> None:
    run("index", folder, "--encoder", "demo")
    write_video(folder / "new.mp4", seed=9)
    write_video(folder / "sub/v1.mp4", seed=8, num_frames=15)
    (folder / "sub/v0.mp4").unlink()
    output = run("index", folder)
    assert "3 videos can be searched (1 new, 1 changed, 1 removed)" in output
    assert "encode videos: 5 of 5" not in output
    assert "v0.mp4" not in run("search", "a circle", "-p", "clips-index/params.yaml")


def test_a_file_that_is_gone_is_said(folder: Path) -> None:
    run("index", folder, "--encoder", "demo")
    (folder / "sub/v0.mp4").unlink()
    output = run("search", "a circle", "-p", "clips-index/params.yaml")
    assert "warning: 1 file is gone" in output
    assert "run `gare-cache index` again" in output


def test_many_queries(folder: Path) -> None:
    run("index", folder, "--encoder", "demo")
    Path("q.txt").write_text("a circle\n\n a square \n")
    output = run("search", "--queries", "q.txt", "-p", "clips-index/params.yaml", "--top", 1)
    assert [line for line in output.splitlines() if line.startswith("query")] == [
        "query: a circle",
        "query: a square",
    ]


def test_the_index_of_faiss_lies_beside_the_vectors(folder: Path) -> None:
    pytest.importorskip("faiss")
    run("index", folder, "--encoder", "demo", "--index", "faiss")
    assert len(list(Path("clips-index/.gare/search").glob("*/faiss.index"))) == 1
    run("search", "a circle", "-p", "clips-index/params.yaml")  # calibrates
    exact, found = (
        run("search", "a circle", "-p", "clips-index/params.yaml", *store)
        for store in ([], ["--index", "faiss", "--nprobe", 4])
    )
    assert exact == found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "x", "--index", "fais"], "did you mean 'faiss'?"),
        (["search", "x", "--nprobe", "4"], "--nprobe is a setting of --index faiss"),
        (["index", "clips", "--index", "qdrant"], "--index qdrant and --qdrant URL belong"),
        (["search", ""], "an empty sentence"),
        (["search"], "the query is empty"),
        (["search", "x", "--queries", "q.txt"], "not both"),
        (["search", "--queries", "gone.txt"], "gone.txt cannot be read"),
        (["index", "gone"], "gone is no folder"),
        (["index", "--encoder", "demo"], "name its folder of videos"),
        (["index", "--into", "clips-index"], "name its folder of videos"),
        (["index", "clips", "-p", "clips-index/params.yaml"], "not both"),
        (["index", "clips", "--encoder", "ViT-B-16"], "was made with encoder demo"),
        (["index", "other"], "is a project of"),
    ],
)
def test_mistakes_are_one_line(folder: Path, arguments: list[str], message: str) -> None:
    run("index", folder, "--encoder", "demo", "--into", "clips-index")
    Path("other").mkdir()
    if arguments[0] == "search":
        arguments = [*arguments, "-p", "clips-index/params.yaml"]
    elif "other" in arguments:
        arguments = [*arguments, "--into", "clips-index"]
    output = run(*arguments, code=2)
    assert message in " ".join(output.split())


def test_a_project_without_features_says_what_to_run(folder: Path) -> None:
    (folder / "broken.mp4").unlink()
    run("init", "mine", "--preset", "generic", "--videos", folder, "--encoder", "demo")
    output = run("search", "a circle", "-p", "mine/params.yaml", code=2)
    assert "run `gare-cache extract` first" in output
    assert "3 videos can be searched" in run("index", "-p", "mine/params.yaml")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe"])
def test_a_file_without_queries_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"holds no query|is not UTF-8"):
        read_queries(tmp_path / "q.txt")
