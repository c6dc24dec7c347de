import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import gare_cache
from gare_cache.api import Run, load_run
from gare_cache.errors import CacheError, ConfigError, FingerprintMismatch
from gare_cache.evaluation.metrics import NonFiniteScores
from gare_cache.files import sealed
from gare_cache.own import own_digests
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, make_tiny_encoder, workspace

EXAMPLES = Path(__file__).parents[1] / "examples"
TEST_IDS = ["test0", "test1", "test2"]
SENTENCES = [f"{word} blocks number {n} of test" for n in range(3) for word in "ab"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("api") / "project", tiny_encoder_dir)
    change_params(folder, train__num_frames=3)
    (folder / "videos/val/val2.mp4").write_bytes(b"no video")
    change_params(folder, extract__max_failed_percent=50.0)
    space = workspace(folder)
    for stage in (prepare, extract, train, evaluate):
        stage(space)
    return folder


@pytest.fixture
def run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("GARE_CACHE_ROOT", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return load_run(finished / "outputs", device="cpu")


def test_sentences_against_videos_score_as_in_evaluation(run: Run, finished: Path) -> None:
    expected = np.load(finished / "outputs/evaluation/similarity.npy")
    found = run.score(SENTENCES, TEST_IDS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    backwards = run.score(SENTENCES[:2], TEST_IDS[::-1])
    np.testing.assert_allclose(backwards[:, ::-1], found[:2], atol=1e-6)


def test_features_and_frames_of_ones_own(run: Run) -> None:
    text, words = run.encode(SENTENCES)
    frames, mask = run.frames(TEST_IDS)
    assert words is None
    assert (frames.shape, mask.shape, text.shape) == ((3, 3, 64), (3, 3), (6, 64))
    expected = run.score(SENTENCES, TEST_IDS)
    np.testing.assert_array_equal(run.score(text, (frames, mask)), expected)
    np.testing.assert_array_equal(run.score(text.numpy(), (frames.numpy(), mask.numpy())), expected)
    np.testing.assert_array_equal(run.score(text, TEST_IDS), expected)


def test_search_ranks_the_videos_of_the_cache(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = run.video_ids()
    assert len(ids) == 13
    assert "val2" not in ids
    assert run.video_ids("test") == TEST_IDS
    scores = run.score([SENTENCES[3]])[0]
    found = run.search(SENTENCES[3], top=4)
    assert [one.video_id for one in found] == [ids[place] for place in np.argsort(-scores)[:4]]
    assert [one.score for one in found] == sorted(scores.tolist(), reverse=True)[:4]
    assert len(run.search(SENTENCES[3], top=99, videos=TEST_IDS)) == 3
    monkeypatch.setattr("gare_cache.api._VIDEOS_AT_A_TIME", 5)
    np.testing.assert_allclose(run.score([SENTENCES[3]])[0], scores, atol=1e-6)


@pytest.mark.parametrize(("videos_at_a_time", "texts_at_a_time"), [(1024, 4096), (4, 5), (1, 1)])
def test_the_best_videos_of_each_text_are_those_of_all_scores(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    videos_at_a_time: int,
    texts_at_a_time: int,
) -> None:
    monkeypatch.setattr("gare_cache.api._VIDEOS_RANKED_AT_A_TIME", videos_at_a_time)
    monkeypatch.setattr("gare_cache.api._TEXTS_RANKED_AT_A_TIME", texts_at_a_time)
    ids = run.video_ids()
    scores = run.score(SENTENCES)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 3, 99):
        top = run.top_k(SENTENCES, k)
        assert top.video_ids == [[ids[place] for place in row] for row in order[:, :k]]
        expected = np.take_along_axis(scores, order[:, :k], axis=1)
        np.testing.assert_allclose(top.scores, expected, atol=1e-6)
    text, _ = run.encode(SENTENCES)
    assert run.top_k(text, 2, TEST_IDS).video_ids == run.top_k(SENTENCES, 2, TEST_IDS).video_ids
    assert run.score(text[:0]).shape == (0, 13)
    assert run.top_k(text[:0], 2).scores.shape == (0, 2)
    assert ("rank videos: 13 of 13" in capsys.readouterr().err) == (videos_at_a_time < 1024)


def test_what_a_run_says_of_itself(run: Run, finished: Path) -> None:
    assert run.outputs == finished / "outputs"
    assert run.settings["train"]["num_frames"] == 3
    assert run.record["best_epoch"] >= 1
    assert run.encoder_id == run.cache.encoder_id == run.encoder.encoder_id
    assert not run.head.training


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda r: r.score("a sentence"), ConfigError, "give a non-empty list of strings"),
        (lambda r: r.score([]), ConfigError, "give a non-empty list of strings"),
        (lambda r: r.score([[0.5] * 64]), ConfigError, r"sentences are \[\[0.5, .* or features"),
        (lambda r: r.search(["a", "b"]), ConfigError, r"query is \['a', 'b'\]; give a sentence"),
        (
            lambda r: r.score(np.array(["a"])),
            ConfigError,
            "not a tensor .* give sentences as a list",
        ),
        (lambda r: r.score(["a"], "test0"), ConfigError, "the videos are 'test0'; give a list"),
        (lambda r: r.top_k(["a"], 0), ConfigError, "k is 0; ask for at least 1 video"),
        (lambda r: r.top_k(["a"], 1, []), ConfigError, "no video to score; give at least one id"),
        (lambda r: r.top_k(["a"], 1, "test0"), ConfigError, "the videos are 'test0'; give a list"),
        (lambda r: r.top_k(["a"], 1, ["x"]), CacheError, "has no video 'x'"),
        (lambda r: r.frames("test0"), ConfigError, "the videos are 'test0'; give a list"),
        (
            lambda r: r.score(torch.zeros(2, 64), torch.zeros(1, 3, 64)),
            ConfigError,
            r"the videos are Tensor of shape \(1, 3, 64\); .* as a tuple",
        ),
        (
            lambda r: r.score(torch.full((2, 64), torch.nan), ["test0"]),
            NonFiniteScores,
            "2 of 2 .* hold NaN",
        ),
        (lambda r: r.search("a", top=1.5), ConfigError, "top is 1.5; ask for at least 1 video"),
        (lambda r: r.score(["a"], []), ConfigError, "there is no video to score"),
        (
            lambda r: r.score([["a"]]),
            ConfigError,
            r"sentences are \[\['a'\]\]; give a non-empty list",
        ),
        (lambda r: r.score(["a"], [torch.ones(1, 4, 64)]), ConfigError, "frames as a tuple"),
        (
            lambda r: r.score(["a"], ["test0", "tset1"]),
            CacheError,
            r"has no video 'tset1' \(1 of 2 are not in it\); Run.video_ids\(\) lists",
        ),
        (
            lambda r: r.frames(["test0", "val2"]),
            CacheError,
            "1 of 2 videos have no .*val2",
        ),
        (lambda r: r.video_ids("tset"), CacheError, "unknown split 'tset'; did you mean 'test'"),
        (lambda r: r.search("a", top=0), ConfigError, "top is 0"),
        (lambda r: r.score(torch.zeros(2, 9), ["test0"]), ConfigError, r"shape \(2, 9\)"),
        (
            lambda r: r.score(torch.zeros(2, 64), words=(torch.zeros(2, 1, 64), torch.ones(2, 1))),
            ConfigError,
            "this head uses no word tokens",
        ),
        (
            lambda r: r.score(["a"], words=(1, 2)),
            ConfigError,
            "word tokens of sentences are encoded with them",
        ),
    ],
)
def test_mistakes(run: Run, ask: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ask(run)


def test_the_folder_of_the_run_itself_is_taken_for_what_it_is(finished: Path) -> None:
    with pytest.raises(ConfigError, match="is the run itself; give the folder of outputs"):
        load_run(finished / "outputs/run")


def test_without_params_only_tensors_can_be_scored(
    run: Run, finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "outputs/run", tmp_path / "copy/run")
    alone = load_run(tmp_path / "copy")
    text, _ = run.encode(SENTENCES)
    expected = run.score(text, TEST_IDS)
    np.testing.assert_array_equal(alone.score(text, run.frames(TEST_IDS)), expected)
    for ask in (lambda: alone.score(SENTENCES), alone.video_ids):
        with pytest.raises(ConfigError, match=r"does not exist.*load_run\(outputs, params"):
            ask()
    given = load_run(tmp_path / "copy", params=finished / "params.yaml")
    with pytest.raises(CacheError, match=r"features.json does not exist"):
        given.video_ids()
    with pytest.raises(ConfigError, match="no trained head at"):
        load_run(tmp_path)


def test_weights_of_another_version_are_refused_in_one_line(finished: Path, tmp_path: Path) -> None:
    file = finished / "outputs/run/head.safetensors"
    with safe_open(file, framework="pt") as content:
        metadata = content.metadata()
    tensors = load_file(file)
    tensors["renamed"] = tensors.pop("logit_scale")
    (tmp_path / "run").mkdir()
    save_file(tensors, tmp_path / "run/head.safetensors", metadata=metadata)
    with pytest.raises(ConfigError, match="another version of gare-cache, or of your own code"):
        load_run(tmp_path)


def test_another_encoder_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    project = shutil.copytree(finished, tmp_path / "project")
    other = make_tiny_encoder(tmp_path / "other", seed=1)
    change_params(project, encoder__model=f"local-dir:{other}")
    run = load_run(project / "outputs")
    assert run.score(torch.zeros(1, 64) + 1, TEST_IDS).shape == (1, 3)
    with pytest.raises(FingerprintMismatch, match=r"describes encoder .*; restore its settings"):
        run.score(SENTENCES)
    extract(workspace(project))
    with pytest.raises(FingerprintMismatch, match="features of encoder"):
        load_run(project / "outputs").video_ids()


def test_words_go_to_heads_that_read_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    project = shutil.copytree(finished, tmp_path / "project")
    off = {name: {"weight": 0.0} for name in ("ib", "eps", "dir")}
    change_params(
        project,
        extract__word_tokens=True,
        head__interaction={"name": "tests.own_modules:WithWords"},
        head__pooling=None,
        head__gap=None,
        train__loss=off,
    )
    for stage in (extract, train, evaluate):
        stage(workspace(project))
    run = load_run(project / "outputs")
    expected = np.load(project / "outputs/evaluation/similarity.npy")
    np.testing.assert_allclose(run.score(SENTENCES, TEST_IDS), expected, atol=1e-5)
    text, words = run.encode(SENTENCES)
    assert words is not None
    np.testing.assert_allclose(run.score(text, TEST_IDS, words=words), expected, atol=1e-5)
    monkeypatch.setattr("gare_cache.api._TEXTS_RANKED_AT_A_TIME", 4)
    top = run.top_k(text, 1, TEST_IDS, words=words)
    assert top.video_ids == [[TEST_IDS[place]] for place in expected.argmax(axis=1)]
    with pytest.raises(ConfigError, match=r"give words=\(tokens"):
        run.score(text, TEST_IDS)


def test_the_example_prints_the_best_videos(run: Run, finished: Path) -> None:
    arguments = [SENTENCES[0], "--outputs", str(finished / "outputs"), "--split", "test"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    environment.pop("GARE_CACHE_ROOT", None)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "search_videos.py", *arguments, "--top", "2"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    best = run.search(SENTENCES[0], top=2, videos=TEST_IDS)
    lines = [
        f"{place:>3}  {one.score:.3f}  {one.video_id}  {one.start:.1f} to {one.end:.1f} s"
        for place, one in enumerate(best, 1)
    ]
    assert done.stdout.splitlines() == [f"{SENTENCES[0]!r} among 3 videos", *lines]


def test_the_readmes_lines_search(
    run: Run, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 5
    monkeypatch.chdir(finished)
    exec(compile(block, "README.md", "exec"), {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 5
    scores = [float(score) for score, *_ in printed]
    assert all(line[3] == "to" and line[-1] == "s" for line in printed)
    assert scores == sorted(scores, reverse=True)
    assert all(Path(path).is_file() for _, path, *_ in printed)


def test_the_package_itself_stays_light() -> None:
    assert gare_cache.load_run is load_run
    assert gare_cache.Found is gare_cache.SearchHit
    assert set(gare_cache.__all__) - {"__version__"} == set(gare_cache._MODULES)
    for name in gare_cache.__all__:
        assert getattr(gare_cache, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'laod_run'"):
        gare_cache.laod_run  # noqa: B018
    code = "import sys, gare_cache; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_what_a_prompt_shows_is_short(run: Run, finished: Path) -> None:
    """repr of a run was the whole head, of a loaded cache all its arrays."""
    assert repr(run).startswith(f"Run('{finished / 'outputs'}', {run.record['run_key'][:12]}, ")
    cache = gare_cache.load_cache(run.cache.folder)
    assert repr(cache).endswith("videos in train: 8, val: 2, test: 3)")
    assert repr(cache.split("val")) == "LoadedSplit('val', 2 videos, 4 captions, dim 64)"
    for shown in (run, cache, cache.split("val")):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 300


def test_dir_is_the_public_interface() -> None:
    assert dir(gare_cache) == sorted(gare_cache.__all__)


def test_a_checkpoint_of_a_stranger_runs_no_code(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lone head.safetensors whose metadata named torch.hub:load ran an attacker's code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/hubconf.py").write_text("raise SystemExit('executed')")
    source = finished / "outputs/run/head.safetensors"
    with safe_open(source, framework="pt") as file:
        metadata = json.loads(file.metadata()["gare_cache"])
    options = {"repo_or_dir": str(tmp_path / "evil"), "model": "x", "source": "local"}
    metadata["head"]["aggregator"] = {"name": "torch.hub:load", "options": options}
    metadata["record"]["own"] = own_digests(metadata["head"])
    metadata = sealed({key: value for key, value in metadata.items() if key != "digest"})
    stranger = tmp_path / "given/outputs/run"
    stranger.mkdir(parents=True)
    save_file(
        load_file(source), stranger / "head.safetensors", {"gare_cache": json.dumps(metadata)}
    )
    with pytest.raises(ConfigError, match=r"names 'torch.hub:load', which params.yaml does not"):
        load_run(stranger.parent, device="cpu")
    # Trusted, it is still no class of the kind that a head is made of.
    with pytest.raises(ConfigError, match=r"is function .*; name a class of torch"):
        load_run(stranger.parent, device="cpu", trust=True)
