"""Every kind of head through training, evaluation and report."""

import json
from pathlib import Path
from typing import Any

import pytest

from gare_cache.errors import CacheError
from gare_cache.reports.run_content import describe_head
from gare_cache.stages import train as train_stage
from gare_cache.stages.evaluate import evaluate
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.report import report
from gare_cache.stages.train import train
from tests.tiny import change_params, make_project, params, workspace

NO_REGULARISERS = {f"train__loss__{name}__weight": 0.0 for name in ("ib", "eps", "dir")}
TOKEN_WISE = {
    "head__interaction__name": "token_wise",
    "head__pooling": None,
    "head__gap": None,
    **NO_REGULARISERS,
}
HEADS: dict[str, tuple[dict[str, Any], str, str]] = {
    "default": (
        {},
        "exact",
        "transformer, text-conditioned pooling, gap module: InfoNCE, L_ib, L_eps, L_dir",
    ),
    "video side, words": (
        {"head__gap": {"side": "video", "context": "words", "eta": -1}},
        "exact",
        "gap module (video side, words as context, negated gap):",
    ),
    "deep": (
        {"head__gap": {"layers": 2, "query": "text"}},
        "dense in blocks",
        "gap module (without a gap, 2 layers):",
    ),
    "cross-attention": (
        {"head__pooling": {"name": "cross_attention"}, "head__gap": None, **NO_REGULARISERS},
        "exact",
        "transformer, cross-attention pooling: InfoNCE",
    ),
    "token-wise": (TOKEN_WISE, "dense in blocks", "transformer, token-wise interaction: InfoNCE"),
}


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path) -> Path:
    folder = make_project(tmp_path_factory.mktemp("heads") / "project", tiny_encoder_dir)
    change_params(folder, extract__word_tokens=True, train__epochs=1)
    for stage in (prepare, extract):
        stage(workspace(folder))
    return folder


@pytest.mark.parametrize(("changes", "scoring", "name"), HEADS.values(), ids=HEADS)
def test_from_training_to_the_report(
    extracted: Path, changes: dict[str, Any], scoring: str, name: str
) -> None:
    original = (extracted / "params.yaml").read_text()
    try:
        change_params(extracted, **changes)
        space = workspace(extracted)
        record = train(space)
        evaluate(space)
        report(space)
    finally:
        (extracted / "params.yaml").write_text(original)
    assert record["scoring"] == scoring
    assert name in describe_head(record["settings"])
    page = (space.report / "report.md").read_text()
    assert name in page
    gap = json.loads((space.evaluation / "analysis.json").read_text())["modality_gap"]["head"]
    assert ("text and video + Delta" in page) == (gap.get("side") == "video")
    left_out = "is left out: it scores a pair without one vector for the text and one for"
    assert (left_out in page) == ("left_out" in gap) == (changes is TOKEN_WISE)


@pytest.mark.parametrize("changes", [{"head__gap": {"context": "words"}}, TOKEN_WISE], ids=str)
def test_a_cache_without_words_is_refused_before_training(
    project: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage in (prepare, extract):
        stage(workspace(project))
    # As of imported features: no encoder whose extraction could be told to keep words.
    change_params(project, **changes, encoder=None)
    assert params(project).head.needs_word_tokens
    monkeypatch.setattr(train_stage, "load_split", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(CacheError, match=r"holds no word tokens; set extract.word_tokens: true"):
        train(workspace(project))
    assert not workspace(project).run.exists()
