import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gare_cache import cli, own
from gare_cache.evaluation.metrics import (
    known_recalls,
    retrieval_metrics,
    text_to_video,
    video_to_text,
)
from gare_cache.files import finite_or_none


def score(*arguments: Any) -> tuple[int, str, str]:
    result = CliRunner().invoke(cli.app, ["score", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def saved(path: Path, array: Any) -> Path:
    np.save(path, array, allow_pickle=True)
    return path


@pytest.fixture
def many_captions(tmp_path: Path) -> tuple[Path, np.ndarray, np.ndarray]:
    """7 texts of 4 videos, in no order; video 2 has no text."""
    generator = np.random.default_rng(0)
    truth = np.array([3, 0, 0, 1, 3, 3, 1])
    similarity = generator.normal(size=(7, 4)).astype(np.float32)
    return saved(tmp_path / "s.npy", similarity), similarity, truth


def test_the_published_matrix(shared_data_dir: Path, tmp_path: Path) -> None:
    file = shared_data_dir / "features" / "dgl_msrvtt1ka_vitb16_sim_matrix.npy"
    figures = tmp_path / "figures.json"
    code, out, err = score(file, "--json", figures)
    assert (code, err) == (0, "")
    found = json.loads(figures.read_text())
    for direction, recalls, ties in (
        ("t2v", [48.0, 71.3, 81.4], 0),
        ("v2t", [46.7, 74.9, 83.7], 9),
    ):
        scores = found[direction]
        assert [round(scores[f"R@{k}"], 1) for k in (1, 5, 10)] == recalls
        assert (scores["queries"], scores["items"], scores["tied queries"]) == (1000, 1000, ties)
        assert scores["R@1 low"] < scores["R@1"] - 2.5
        assert scores["R@1 high"] > scores["R@1"] + 2.5
    assert found["RSum"] == pytest.approx(48.0 + 71.3 + 81.4 + 46.7 + 74.9 + 83.7)
    text, video = out.splitlines()[1:3]
    assert text.startswith("Text to video  48.0")
    assert text.endswith(" 0")
    assert "46.7" in video
    assert video.endswith(" 9")
    assert "RSum 406.0" in out
    assert "best caption of all" in out


@pytest.mark.parametrize("convention", ["best_caption_of_all", "best_caption_group"])
def test_many_captions_by_index_and_by_id(
    many_captions: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path, convention: str
) -> None:
    file, similarity, truth = many_captions
    figures = tmp_path / "figures.json"
    ids = ["a b", 'say "b"', "7", "dé"]
    columns = tmp_path / "columns.txt"
    columns.write_text("\n".join(ids) + "\n\n", encoding="utf-8")
    (tmp_path / "index.txt").write_text("\n".join(map(str, truth)))
    quoted = [value.replace('"', '""') for value in ids]
    (tmp_path / "ids.csv").write_text(
        "".join(f'"{quoted[column]}"\n' for column in truth), encoding="utf-8-sig"
    )
    np.save(tmp_path / "ids.npy", np.array([ids[column] for column in truth]))
    np.save(tmp_path / "index.npy", truth)
    np.save(tmp_path / "turned.npy", similarity.T)
    results = []
    for matrix, *arguments in (
        (file, "--video-of-text", tmp_path / "index.npy"),
        (file, "--video-of-text", tmp_path / "index.txt"),
        (file, "--video-of-text", tmp_path / "ids.csv", "--video-ids", columns),
        (file, "--video-of-text", tmp_path / "ids.npy", "--video-ids", columns),
        (tmp_path / "turned.npy", "--transposed", "--video-of-text", tmp_path / "index.npy"),
    ):
        code, out, err = score(
            matrix, *arguments, "--v2t-convention", convention, "--json", figures
        )
        assert code == 0, err
        assert "1 video has no text" in out
        results.append(json.loads(figures.read_text()) | {"file": ""})
    assert results == [results[0]] * 5
    expected = {
        "t2v": retrieval_metrics(text_to_video(similarity, truth)),
        "v2t": retrieval_metrics(video_to_text(similarity, truth, convention=convention)),
    }
    for direction, metrics in expected.items():
        known = finite_or_none(known_recalls(metrics, results[0][direction]["items"]))
        assert {name: results[0][direction][name] for name in metrics} == known
        assert known["R@10"] is None
    assert results[0]["t2v"]["items"] == 4
    assert results[0]["v2t"]["queries"] == 3
    assert results[0]["v2t"]["items"] == (7 if convention == "best_caption_of_all" else 3)


def test_transposing_swaps_the_directions_of_a_square_matrix(tmp_path: Path) -> None:
    file = saved(tmp_path / "s.npy", np.random.default_rng(1).normal(size=(9, 9)))
    found = []
    for arguments in ((), ("--transposed",)):
        assert score(file, *arguments, "--json", tmp_path / "f.json")[0] == 0
        found.append(json.loads((tmp_path / "f.json").read_text()))
    assert found[0]["t2v"] == found[1]["v2t"]
    assert found[0]["v2t"] == found[1]["t2v"]
    assert found[0]["t2v"] != found[0]["v2t"]


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.uint16])
def test_coarse_numbers_are_scored_and_their_ties_said(tmp_path: Path, dtype: type) -> None:
    # Rows 0 and 1 tie with a false video, column 1 with a false text.
    values = np.array([[9, 9, 1], [5, 5, 2], [0, 5, 7]], dtype=dtype)
    code, out, _ = score(saved(tmp_path / "s.npy", values), "--json", tmp_path / "f.json")
    assert code == 0
    assert (
        f"the values are {np.dtype(dtype)}, and rounding makes ties: 2 t2v queries and 1 v2t query"
        in out
    )
    found = json.loads((tmp_path / "f.json").read_text())
    assert found["t2v"]["R@1"] == pytest.approx(100 * (0.5 + 0.5 + 1) / 3)


def test_integers_keep_their_order(tmp_path: Path) -> None:
    values = np.eye(2, dtype=np.int64) * 2**53 - 1
    assert score(saved(tmp_path / "s.npy", values))[0] == 0
    code, _, err = score(saved(tmp_path / "s.npy", values * 4))
    assert code == 2
    assert "int64 values beyond 2^53" in err


def test_rows_with_nan_are_counted_in_the_files_own_order(tmp_path: Path) -> None:
    similarity = np.ones((6, 6), dtype=np.float16)
    similarity[2, 0], similarity[2, 1], similarity[4, 5] = np.nan, np.inf, -np.inf
    for arguments in ((), ("--transposed",)):
        code, out, err = score(saved(tmp_path / "s.npy", similarity), *arguments)
        assert (code, out) == (2, "")
        assert "2 of 6 rows of the similarity hold NaN or infinity, the first is row 2" in err


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones(5), "has shape (5,)"),
        (np.ones((2, 2, 2)), "has shape (2, 2, 2)"),
        (np.ones((0, 3)), "has shape (0, 3)"),
        (np.ones((3, 2)), "has 3 texts and 2 videos, so the diagonal is not the truth"),
        (np.ones((2, 2), dtype=bool), "holds bool"),
        (np.ones((2, 2), dtype=complex), "holds complex128"),
        (np.array([["a", "b"], ["c", "d"]]), "holds <U1"),
        (np.array([[1, None], [2, 3]], dtype=object), "not an npy file of plain numbers"),
    ],
)
def test_what_is_no_similarity(tmp_path: Path, array: Any, message: str) -> None:
    code, out, err = score(saved(tmp_path / "s.npy", array))
    assert (code, out) == (2, "")
    assert message in err


def test_files_of_other_kinds(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", np.eye(2))
    (tmp_path / "empty.npy").touch()
    whole = saved(tmp_path / "whole.npy", np.eye(4)).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    np.eye(3).dump(tmp_path / "pickled.npy")
    for name in ("s.npz", "empty.npy", "cut.npy", "pickled.npy"):
        code, _, err = score(tmp_path / name)
        assert code == 2
        assert f"{name} is not an npy file of plain numbers" in err
    assert "nowhere.npy is not a file" in score(tmp_path / "nowhere.npy")[2]


@pytest.mark.parametrize(
    ("name", "content", "ids", "message"),
    [
        ("t.txt", "0\n1\n2\n", None, "has 3 values, the matrix has 7 texts"),
        ("t.txt", "video\n" + "0\n" * 7, None, "8 values, the matrix has 7 texts; is the first"),
        ("t.txt", "0\n1\n\n0\n0\n0\n0\n", None, "1 of 7 values are empty: '' (entry 2)"),
        ("t.txt", "0\n1\n4\n0\n0\n9\n0\n", None, "2 of 7 values are beyond the last column, 3"),
        ("t.txt", "0\n1\n-1\n0\n0\n0\n0\n", None, "not a column index; name the columns with"),
        ("t.txt", "a\n1\n1\n0\n0\n0\n0\n", None, "1 of 7 values are not a column index"),
        ("t.csv", "0,a\n" + "1,b\n" * 6, None, "7 of 7 values are more than one column wide"),
        (
            "t.txt",
            "a\na\nb\nx\nb\nc\ny\n",
            "a\nb\nc\nd",
            "2 of 7 values are not among the ids of the columns: 'x'",
        ),
        ("t.txt", "a\n" * 7, "a\nb\nc", "has 3 values, the matrix has 4 videos"),
        ("t.txt", "a\n" * 7, "a\nb\na\nd", "1 of 4 values are repeated: 'a' (entry 2)"),
    ],
)
def test_lists_that_do_not_fit(
    many_captions: tuple[Path, np.ndarray, np.ndarray],
    tmp_path: Path,
    name: str,
    content: str,
    ids: str | None,
    message: str,
) -> None:
    (tmp_path / name).write_text(content)
    arguments = ["--video-of-text", tmp_path / name]
    if ids is not None:
        (tmp_path / "ids.txt").write_text(ids)
        arguments += ["--video-ids", tmp_path / "ids.txt"]
    code, out, err = score(many_captions[0], *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_arrays_that_are_no_list(
    many_captions: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    file, _, truth = many_captions
    for array in (truth.astype(float), truth[None], np.array([None] * 7)):
        groups = saved(tmp_path / "groups.npy", array)
        code, _, err = score(file, "--video-of-text", groups)
        assert code == 2
        assert "groups.npy" in err
    (tmp_path / "latin.txt").write_bytes(b"\xe9\n" * 7)
    assert "not UTF-8 text" in score(file, "--video-of-text", tmp_path / "latin.txt")[2]


def test_ids_of_columns_alone_and_an_unknown_convention(tmp_path: Path) -> None:
    file = saved(tmp_path / "s.npy", np.eye(2))
    code, _, err = score(file, "--video-ids", tmp_path / "ids.txt")
    assert code == 2
    assert "--video-ids names the columns for --video-of-text" in err
    code, _, err = score(file, "--v2t-convention", "best")
    assert code == 2
    assert "unknown v2t convention 'best'" in err


def ledger(path: Path) -> dict[tuple[str, str], list[float]]:
    """(direction, title) -> R@1, R@5, R@10, rounded as they are printed."""
    rows = json.loads(path.read_text())["normalisers"]["rows"]
    return {
        (direction, row["title"]): [round(row[direction][f"R@{k}"], 1) for k in (1, 5, 10)]
        for row in rows
        for direction in ("t2v", "v2t")
    }


def test_normalisers_on_the_published_matrix(shared_data_dir: Path, tmp_path: Path) -> None:
    file = shared_data_dir / "features" / "dgl_msrvtt1ka_vitb16_sim_matrix.npy"
    figures = tmp_path / "figures.json"
    names = ("dsl", "inverted_softmax:kind=transductive", "sinkhorn:kind=transductive")
    asked = [argument for name in names for argument in ("--normalise", name)]
    code, out, err = score(file, *asked, "--json", figures)
    assert (code, err) == (0, "")
    found = ledger(figures)
    sinkhorn = "sinkhorn (iterations 4, targets uniform)"
    assert found["t2v", "raw"] == [48.0, 71.3, 81.4]
    assert found["t2v", "dsl (temp 1)"] == [52.6, 76.6, 85.4]
    assert found["v2t", "dsl (temp 1)"] == [52.9, 77.1, 85.9]
    assert found["t2v", "inverted_softmax"] == [52.7, 76.9, 85.5]
    assert found["t2v", sinkhorn] == [54.3, 77.5, 85.6]
    assert found["v2t", sinkhorn] == [54.8, 78.0, 86.0]
    rows = json.loads(figures.read_text())["normalisers"]["rows"]
    errors = [row["t2v"]["normalisation error"] for row in rows]
    assert errors == pytest.approx([0.431, 0.440, 0.205, 0.039], abs=0.001)
    lines = out.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("Direction"))
    titles = ["raw", "dsl", "inverted_softmax", "sinkhorn"]
    assert [line.split()[1] for line in lines[start + 1 : start + 9]] == titles * 2
    assert lines[start + 2].split()[4] == "X"
    assert "[49.5, 55.7]" in lines[start + 2]
    assert " +4.6 [+2.5, +6.7]" in lines[start + 2]
    gain = rows[1]["t2v"]["R@1 - raw"]
    assert gain["R@1"] == pytest.approx(4.6)
    # Paired over the same queries the interval is narrower than either score's.
    assert 0 < gain["R@1 low"] < gain["R@1 high"] < 9.2
    assert gain["R@1 high"] - gain["R@1 low"] < rows[1]["t2v"]["R@1 high"] - 49.5
    assert "49 of 1,000,000 scores are negative" in out
    # Halved cosines are other logits, and give another order.
    halved = saved(tmp_path / "halved.npy", np.load(file) / 2)
    assert score(halved, "--normalise", "dsl", "--scale", "2", "--json", figures)[0] == 0
    assert ledger(figures)["t2v", "dsl (temp 1)"] == [52.6, 76.6, 85.4]
    assert score(halved, "--normalise", "dsl", "--json", figures)[0] == 0
    assert ledger(figures)["t2v", "dsl (temp 1)"] != [52.6, 76.6, 85.4]


def make_bank(folder: Path, name: str, rows: int, columns: int) -> Path:
    generator = np.random.default_rng(len(name) + rows)
    return saved(folder / f"{name}.npy", generator.uniform(-0.3, 0.9, (rows, columns)))


def test_banks_are_read_for_their_own_direction(
    many_captions: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    _, similarity, truth = many_captions
    cosines = similarity.astype(np.float64) / 10
    file = saved(tmp_path / "cosines.npy", cosines)
    np.save(tmp_path / "index.npy", truth)
    banks = {
        "query-bank-t2v": make_bank(tmp_path, "a", 9, 4),
        "query-bank-v2t": make_bank(tmp_path, "b", 5, 7),
        "gallery-bank-t2v": make_bank(tmp_path, "c", 5, 4),
        "gallery-bank-v2t": make_bank(tmp_path, "d", 9, 7),
    }
    options = [text for name, path in banks.items() for text in (f"--{name}", path)]
    figures = tmp_path / "f.json"
    common = ["--video-of-text", tmp_path / "index.npy", "--scale", 20, "--json", figures]
    names = ("dual_is:b1=1,b2=0.5", "nnn:k=2,alpha=1", "qbnorm:beta=5")
    asked = [text for name in names for text in ("--normalise", name)]
    code, out, err = score(file, *asked, *options, *common)
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(figures.read_text())["normalisers"]["rows"]}
    assert list(rows) == ["none", "dual_is", "nnn", "qbnorm"]
    bank = {name: 20 * np.load(path) for name, path in banks.items()}
    lse = {
        name: np.log(np.exp(one * (1 if "query" in name else 0.5)).sum(0))
        for name, one in bank.items()
    }
    top = {name: np.sort(one, axis=0)[-2:].mean(0) for name, one in bank.items()}
    expected = {
        "dual_is": (
            30 * cosines - lse["query-bank-t2v"] - lse["gallery-bank-t2v"],
            30 * cosines - (lse["query-bank-v2t"] + lse["gallery-bank-v2t"])[:, None],
        ),
        "nnn": (
            20 * cosines - top["query-bank-t2v"],
            20 * cosines - top["query-bank-v2t"][:, None],
        ),
    }
    for name, (t2v, v2t) in expected.items():
        ranks = {
            "t2v": text_to_video(t2v, truth),
            "v2t": video_to_text(v2t, truth, convention="best_caption_of_all"),
        }
        for direction, one in ranks.items():
            gallery = rows[name][direction]["items"]
            for metric, value in known_recalls(retrieval_metrics(one), gallery).items():
                if np.isnan(value):
                    assert rows[name][direction][metric] is None
                    continue
                assert rows[name][direction][metric] == pytest.approx(value), (name, metric)
    assert "I, inductive" in out
    assert "X, transductive" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--normalise", "nnn"],
            "nnn is inductive and needs --query-bank-t2v and --query-bank-v2t",
        ),
        (["--normalise", "sinkhorn"], "or write sinkhorn:kind=transductive"),
        (
            ["--normalise", "dual_is", "--query-bank-t2v", "b", "--query-bank-v2t", "b"],
            "dual_is is inductive and needs --gallery-bank-t2v and --gallery-bank-v2t",
        ),
        (["--normalise", "csls:k=3", "--query-bank-t2v", "b"], "needs --query-bank-v2t"),
        (["--normalise", "sinkhorn:iterations=0,kind=transductive"], "it is inverted_softmax"),
        (["--normalise", "dsl:temp=hot"], "dsl.temp is 'hot': input should be a valid number"),
        (["--normalise", "dsl:temp=1,temp=2"], "'temp=2' is not a new parameter"),
        (["--normalise", "dsl:temp=1,2"], "'2' is not a new parameter"),
        (["--normalise", "dsl:temp"], "'temp' is not a new parameter; write NAME:param=value"),
        (["--normalise", "dsl:"], "nothing follows the colon; write dsl or dsl:param=value"),
        (["--normalise", "softmax"], "unknown normaliser 'softmax'"),
        (
            ["--normalise", "dsl", "--query-bank-t2v", "b"],
            "none of the requested normalisers uses --query-bank-t2v",
        ),
        (["--scale", 3], "--scale belong to --normalise"),
        (["--query-bank-v2t", "b"], "--query-bank-v2t belong to --normalise"),
        (["--normalise", "dsl", "--scale", -1], "--scale is -1.0"),
        (["--normalise", "dsl"], "the values lie between -1 and 1, as cosines do"),
    ],
)
def test_normalisers_that_are_refused(tmp_path: Path, arguments: list[Any], message: str) -> None:
    file = saved(tmp_path / "s.npy", np.eye(3))
    code, out, err = score(file, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_banks_that_do_not_fit(tmp_path: Path) -> None:
    file = saved(tmp_path / "s.npy", 5 * np.eye(3))
    good = saved(tmp_path / "good.npy", np.ones((4, 3)))
    wide = saved(tmp_path / "wide.npy", np.ones((4, 5)))
    broken = saved(tmp_path / "broken.npy", np.full((4, 3), np.nan))
    for bank, message in (
        (wide, "--query-bank-v2t: "),
        (wide, "wide.npy has 5 columns, but the gallery has 3 items"),
        (broken, "--query-bank-v2t: 4 of 4 rows of"),
        (tmp_path / "gone.npy", "gone.npy is not a file"),
    ):
        options = ["--query-bank-t2v", good, "--query-bank-v2t", bank]
        code, _, err = score(file, "--normalise", "csls", *options)
        assert code == 2
        assert message in err
    qbnorm = ["--normalise", "qbnorm", "--query-bank-t2v", good, "--query-bank-v2t", good]
    assert "qbnorm's beta is on cosines" in score(file, *qbnorm)[2]
    single = saved(tmp_path / "one.npy", np.full((1, 1), 5.0))
    assert "there is 1 in one direction" in score(single, "--normalise", "dsl")[2]


def test_a_normaliser_of_ones_own_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr(own, "_project", [])
    monkeypatch.chdir(tmp_path)
    Path("mine_alone.py").write_text(
        "def half(scores, *, by=2.0):\n    return scores.logits / by\n"
    )
    saved(Path("s.npy"), 9 * np.random.default_rng(0).normal(size=(6, 6)))
    saved(Path("b.npy"), 9 * np.random.default_rng(1).normal(size=(3, 6)))
    banks = ("--query-bank-t2v", "b.npy", "--query-bank-v2t", "b.npy")
    code, out, err = score("s.npy", "--normalise", "mine_alone:half:by=4", *banks)
    assert (code, err) == (0, "")
    assert "mine_alone:half (by 4)" in out
    _, _, err = score("s.npy", "--normalise", "mine_alon:half", *banks)
    assert "did you mean mine_alone?" in err


def test_what_transductive_rows_assume_is_compared_with_the_texts(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", 9 * np.random.default_rng(0).normal(size=(6, 3)))
    for truth, note in (
        ([0, 0, 1, 1, 2, 2], "Here every video has 2 texts: X profits"),
        ([0, 0, 0, 1, 1, 1], "Here every video has 3 texts: X profits"),
        ([0, 0, 0, 1, 1, 2], "Here videos have 1 to 3 texts: the assumption of X does not hold"),
    ):
        np.save(tmp_path / "truth.npy", truth)
        common = (tmp_path / "s.npy", "--video-of-text", tmp_path / "truth.npy")
        assert note in score(*common, "--normalise", "dsl:temp=5")[1]
        assert "Here" not in score(*common)[1]
