import pytest
import torch

from gare_cache.evaluation.contract import checks as contract
from gare_cache.evaluation.contract.rows import ContractRow, as_values, random_inputs
from gare_cache.heads.retrieval import RetrievalHead, build_head
from tests.plain_head import plain_head

MODULE = "tests.own_modules"
SHAPES, FINITE, GRADIENTS = "shapes and dtype", "finite scores", "finite gradients"
PADDING, WORDS = "padded frames do not count", "padded words do not count"
TEXTS, VIDEOS = "the order of texts does not count", "the order of videos does not count"
BATCH = "a pair's score does not depend on its batch"
BLOCKS = "blocks give the scores of forward"
REPEATS, REBUILD = "evaluation repeats itself", "settings and state rebuild it"
LEARNS = "a few steps lower the loss"
ALL = [SHAPES, FINITE, GRADIENTS, PADDING, TEXTS, VIDEOS, BATCH, BLOCKS, REPEATS, REBUILD, LEARNS]


def rows_of(head: RetrievalHead) -> dict[str, ContractRow]:
    rows = contract.check_contract(head, build_head)
    assert all(bool(row.remedy) != row.passed for row in rows)
    return {row.name: row for row in rows}


def own_head(name: str) -> RetrievalHead:
    torch.manual_seed(0)
    interaction = {"name": f"{MODULE}:{name}"}
    return plain_head(dim=32, max_frames=6, aggregator={"name": "mean"}, interaction=interaction)


def failing(head: RetrievalHead) -> list[str]:
    return [name for name, row in rows_of(head).items() if not row.passed]


@pytest.mark.parametrize("name", ["Cosine", "WithDelta", "Dropping"])
def test_honest_heads_keep_to_it(name: str) -> None:
    found = rows_of(own_head(name))
    assert list(found) == ALL
    assert [row.seen for row in found.values() if not row.passed] == []


def test_a_head_that_reads_words() -> None:
    assert list(rows_of(own_head("WithWords"))) == [*ALL[:4], WORDS, *ALL[4:]]
    assert failing(own_head("WithWords")) == []
    assert failing(own_head("WordPaddingLeaks")) == [WORDS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_head_of_the_package_keeps_to_it_in_either_precision(dtype: torch.dtype) -> None:
    """tests/heads/test_contract.py has all of them."""
    torch.manual_seed(0)
    head = plain_head(dim=64, max_frames=6, projection="linear", gap={}).to(dtype)
    rows = contract.check_contract(head, lambda **settings: build_head(**settings).to(dtype))
    assert [row.name for row in rows] == ALL
    assert [row.seen for row in rows if not row.passed] == []
    assert str(dtype) in rows[0].seen


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("WrongShape", [SHAPES]),
        ("WrongType", [SHAPES]),
        ("WrongDtype", [SHAPES]),
        ("WrongDelta", [SHAPES]),
        ("SquareOnly", [SHAPES]),
        ("NotANumber", [FINITE]),
        ("GradientNotANumber", [GRADIENTS, LEARNS]),
        ("Detached", [GRADIENTS, LEARNS]),
        ("PaddingLeaks", [PADDING]),
        ("BatchDependent", [BATCH, BLOCKS]),
        ("KnowsTheBatch", [BATCH]),
        ("BatchStatistics", [BATCH, BLOCKS]),
        ("DualSoftmax", [BATCH, BLOCKS]),
        ("Raising", [SHAPES]),
        ("ChangingInPlace", ["gradients can be checked", "learning can be checked"]),
        ("KnowsTheRow", [TEXTS, VIDEOS, BATCH, BLOCKS]),
        ("KnowsTheColumn", [VIDEOS, BATCH, BLOCKS]),
        ("Remembering", [REPEATS]),
        ("Hiding", [REBUILD]),
        ("Tied", [REBUILD]),
        ("Backwards", [LEARNS]),
    ],
)
def test_every_fault_is_found_by_the_row_that_names_it(name: str, expected: list[str]) -> None:
    assert failing(own_head(name)) == expected


def test_dropout_in_evaluation_spoils_every_comparison_and_is_named() -> None:
    found = rows_of(own_head("AlwaysDropping"))
    assert not found[REPEATS].passed
    assert "training=self.training" in found[REPEATS].remedy


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Shift", []),
        ("MixesVideos", [BATCH, BLOCKS]),
        ("MixesPadding", [PADDING]),
        ("Pools", [SHAPES]),
    ],
)
def test_aggregators(name: str, expected: list[str]) -> None:
    head = plain_head(
        dim=32,
        max_frames=6,
        aggregator={"name": f"{MODULE}:{name}"},
        pooling={"name": "mean"},
    )
    assert failing(head) == expected


def test_messages_say_what_was_seen() -> None:
    seen = {name: rows_of(own_head(name)) for name in ("WrongShape", "NotANumber", "Remembering")}
    assert "returned a tensor of shape (5, 7); (T, V) is (7, 5)" in seen["WrongShape"][SHAPES].seen
    raising = rows_of(own_head("Raising"))[SHAPES].seen
    assert raising.startswith(f"7 texts, 5 videos: interaction '{MODULE}:Raising' fails at ")
    assert "own_modules.py" in raising
    assert "with AttributeError: 'Raising' object has no attribute 'head'" in raising
    assert seen["NotANumber"][FINITE].seen == "7 of 35 scores are NaN or infinite"
    assert seen["Remembering"][REPEATS].seen == "scoring changes interaction.module.seen"
    honest = rows_of(own_head("Dropping"))
    assert "training mode differs by 0." in honest[REPEATS].seen
    assert honest[LEARNS].seen.startswith("loss ")


def test_a_head_is_left_as_it_was_and_the_outcome_repeats() -> None:
    head = own_head("Dropping").train()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    drawn = torch.get_rng_state()
    first = as_values(contract.check_contract(head, build_head))
    assert head.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
    assert as_values(contract.check_contract(head, build_head)) == first
    assert as_values(contract.check_contract(head, build_head, seed=1)) != first


def test_a_head_without_weights_has_nothing_to_learn() -> None:
    head = plain_head(dim=8, max_frames=1, aggregator={"name": "mean"}, pooling={"name": "mean"})
    found = rows_of(head)
    assert found[LEARNS].seen == "it has no weights to train"
    assert all(row.passed for row in found.values())


def test_the_features_hold_videos_of_one_frame_and_of_all() -> None:
    inputs = random_inputs(own_head("WithWords"))
    assert inputs.mask.sum(1).tolist() == [1, 2, 3, 4, 6]
    assert inputs.words is not None
    assert inputs.words[1].sum(1).tolist() == [1, 2, 3, 4, 5, 6, 1]
    assert not inputs.frames[~inputs.mask].any()
    assert 8 < inputs.text.norm(dim=1).mean() < 12
