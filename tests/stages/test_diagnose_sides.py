"""Diagnoses of the kinds of heads that have an increment, and of those that have none."""

from pathlib import Path
from typing import Any

import pytest

from gare_cache.errors import ConfigError
from gare_cache.stages.diagnose import diagnose
from gare_cache.stages.extract import extract
from gare_cache.stages.prepare import prepare
from gare_cache.stages.train import train
from tests.stages.test_heads import NO_REGULARISERS, TOKEN_WISE
from tests.tiny import change_params, workspace


@pytest.fixture
def extracted(project: Path) -> Path:
    change_params(project, extract__word_tokens=True, train__epochs=1)
    for stage in (prepare, extract):
        stage(workspace(project))
    return project


@pytest.mark.parametrize("side", ["text", "video"])
@pytest.mark.parametrize("context", ["frames", "words"])
def test_both_sides_and_contexts(extracted: Path, side: str, context: str) -> None:
    change_params(extracted, head__gap={"side": side, "context": context})
    train(workspace(extracted))
    found = diagnose(workspace(extracted))
    assert found["side"] == side
    assert found["largest difference to the exact scores"] < 1e-5
    assert ("p + Delta" in found["norms"]["series"]) == (side == "video")


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        (TOKEN_WISE, r"head\.interaction\.name is 'token_wise': set it to pooled, and head\.gap"),
        (
            {"head__pooling": {"name": "cross_attention"}, "head__gap": None, **NO_REGULARISERS},
            r"set head\.gap \(head\.gap: \{\} uses its defaults\)",
        ),
    ],
    ids=["token-wise", "cross-attention"],
)
def test_heads_without_increment_are_refused(
    extracted: Path, changes: dict[str, Any], setting: str
) -> None:
    change_params(extracted, **changes)
    train(workspace(extracted))
    with pytest.raises(ConfigError, match=setting):
        diagnose(workspace(extracted))
