from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gare_cache.errors import ConfigError
from gare_cache.heads.custom_aggregator import CustomAggregator
from gare_cache.heads.custom_interaction import CustomInteraction
from gare_cache.heads.retrieval import RetrievalHead, build_head
from tests.plain_head import plain_head

Inputs = Callable[..., tuple[Tensor, Tensor, Tensor]]
MODULE = "tests.own_modules"


def own_head(name: str, **options: Any) -> RetrievalHead:
    torch.manual_seed(0)
    return plain_head(
        dim=16,
        max_frames=6,
        projection="linear",
        aggregator={"name": "mean"},
        interaction={"name": f"{MODULE}:{name}", "options": options},
    )


def float_inputs(inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    return inputs(dtype=torch.float32)


def test_a_head_around_an_interaction_of_ones_own(inputs: Inputs) -> None:
    head = own_head("Cosine", bias=True)
    text, frames, mask = float_inputs(inputs)
    scores = head(text, frames, mask)
    assert isinstance(head.interaction, CustomInteraction)
    assert (head.needs_words, head.side, head.exact, head.compares_vectors) == (
        False,
        "text",
        False,
        False,
    )
    assert scores.delta is None
    expected = head.interaction.module(text, frames, mask)
    torch.testing.assert_close(scores.similarity, expected)
    for block_bytes in (1, 2_000, 2**28):
        found = head.similarity(text, frames, mask, block_bytes=block_bytes)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="does not pool a video to one vector"):
        head.vectors(text, frames, mask)
    settings = head.settings["interaction"]
    assert settings == {"name": f"{MODULE}:Cosine", "options": {"bias": True}}
    again = build_head(**head.settings)
    again.load_state_dict(head.state_dict())
    assert torch.equal(again(text, frames, mask).similarity, scores.similarity)


def test_blocks_fit_the_memory_that_it_says_a_pair_takes(inputs: Inputs) -> None:
    head = own_head("Large")
    head.similarity(*float_inputs(inputs))
    assert {texts for texts, _ in head.interaction.module.blocks} == {1}
    assert own_head("Cosine").interaction.pair_elements(3, 2, 16) == 4 * (3 + 2) * 16
    for wrong in (0, 1.5):
        head.interaction.module.elements = wrong
        with pytest.raises(ConfigError, match=rf"Large' is {wrong}; it must be a whole number"):
            head.similarity(*float_inputs(inputs))


def test_an_estimate_that_cannot_be_called_is_an_error_without_a_place(inputs: Inputs) -> None:
    head = own_head("Large")
    head.interaction.module.pair_elements = lambda: 1
    with pytest.raises(ConfigError, match=r"^pair_elements of interaction .* fails with TypeError"):
        head.similarity(*float_inputs(inputs))


def test_increments_and_the_side_they_correct(inputs: Inputs) -> None:
    head = own_head("WithDelta")
    scores = head(*float_inputs(inputs))
    assert head.side == "video"
    assert scores.delta is not None
    assert scores.delta.shape == (5, 4, 16)


def test_words_are_given_to_whoever_needs_them(inputs: Inputs) -> None:
    head = own_head("WithWords")
    text, frames, mask = float_inputs(inputs)
    tokens = torch.randn(5, 3, 16)
    words = (tokens, torch.arange(3) < torch.tensor([1, 2, 3, 3, 1])[:, None])
    assert head.needs_words
    dense = head(text, frames, mask, words).similarity
    torch.testing.assert_close(head.similarity(text, frames, mask, words, block_bytes=1), dense)
    with pytest.raises(ConfigError, match="compares the word tokens of the texts"):
        head(text, frames, mask)


def test_evaluation_is_without_dropout_whatever_the_mode(inputs: Inputs) -> None:
    head = own_head("Dropping").train()
    values = float_inputs(inputs)
    assert not torch.equal(head(*values).similarity, head(*values).similarity)
    found = head.similarity(*values)
    assert torch.equal(found, head.similarity(*values))
    assert head.interaction.training
    assert head.interaction.module.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WrongShape", r"WrongShape' returned a tensor of shape \(4, 5\); \(T, V\) is \(5, 4\)"),
        ("WrongType", r"WrongType' returned a ndarray; it must return a tensor \(T, V\)"),
        ("WrongDtype", r"returned torch.float64 on cpu; its inputs are torch.float32 on cpu"),
        (
            "Raising",
            r"Raising' fails at .*own_modules.py:\d+ with AttributeError: 'Raising' object",
        ),
        ("WrongDelta", r"delta of interaction .* shape \(4, 16\); \(T, V, D\) is \(5, 4, 16\)"),
    ],
)
def test_what_it_returns_is_checked(inputs: Inputs, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_head(name)(*float_inputs(inputs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": f"{MODULE}:WrongSide"}, r"unknown side of interaction .* did you mean 'video'"),
        ({"name": f"{MODULE}:WrongWords"}, r"needs_words of interaction .* is 'yes'; it must be"),
        ({"name": f"{MODULE}:NoModule"}, r"name a class of torch.nn.Module"),
        (
            {"name": f"{MODULE}:Unbuildable"},
            r"^building interaction .*:Unbuildable' with {'dim': 4, 'max_frames': 2} fails at "
            r".*own_modules.py:\d+ with ValueError: heads must divide the width \(--debug",
        ),
        (
            {"name": f"{MODULE}:Shift"},
            r"forward of interaction .*:Shift' has the signature \(frames.* as \(text, frames",
        ),
        ({"name": f"{MODULE}:Cosinus"}, r"defines no 'Cosinus'; did you mean Cosine"),
        ({"name": f"{MODULE}:Cosine", "options": {"layers": 2}}, r"unexpected keyword .*'layers'"),
        ({"name": f"{MODULE}:Cosine", "layers": 2}, r"of head.interaction 'layers'.*{layers: 2}"),
        (
            {"name": f"{MODULE}:Cosine", "options": [1]},
            r"options is \[1\]: input should be a valid",
        ),
        ({"name": f"{MODULE}:Cosine", "options": {"x": len}}, r"which no run record can keep"),
    ],
)
def test_what_cannot_be_built(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plain_head(dim=4, max_frames=2, aggregator={"name": "mean"}, interaction=settings)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"pooling": {"name": "mean"}},
            r"head.pooling belongs to the interaction .* null",
        ),
        ({"gap": {}}, r"head.gap belongs to the interaction 'pooled'"),
        ({"reference_padding": True}, r"head.reference_padding belongs to the interaction"),
    ],
)
def test_settings_of_the_pooled_interaction_are_refused(
    others: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plain_head(dim=4, max_frames=2, interaction={"name": f"{MODULE}:Cosine"}, **others)


def test_an_aggregator_of_ones_own(inputs: Inputs) -> None:
    text, frames, mask = float_inputs(inputs)
    head = plain_head(
        dim=16,
        max_frames=6,
        aggregator={"name": f"{MODULE}:Shift", "options": {"length": 0.5}},
        pooling={"name": "mean"},
    )
    plain = plain_head(dim=16, max_frames=6, aggregator={"name": "mean"}, pooling={"name": "mean"})
    assert isinstance(head.aggregator, CustomAggregator)
    expected = plain.similarity(text, frames + 0.5, mask)
    torch.testing.assert_close(head.similarity(text, frames, mask), expected)
    assert head.settings["aggregator"]["options"] == {"length": 0.5}
    assert build_head(**head.settings).settings == head.settings
    pools = plain_head(dim=16, max_frames=6, aggregator={"name": f"{MODULE}:Pools"})
    with pytest.raises(ConfigError, match=r"shape \(4, 16\); \(V, F, D\) is \(4, 6, 16\)"):
        pools(text, frames, mask)
    with pytest.raises(ConfigError, match=r"set head.aggregator.options: null"):
        plain_head(dim=16, max_frames=6, aggregator={"name": "mean", "options": {}})
