from itertools import product

import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.heads.gap import GapModule
from gare_cache.heads.retrieval import build_head
from gare_cache.heads.settings import CONTEXTS, GapSettings
from tests.heads import slow

# How the query is made, by name.
QUERIES = {
    "gap": {},
    "negated": {"eta": -1},
    "text": {"query": "text"},
}


def make_psi(dim, reference_padding=False, **settings):
    return GapModule(dim, GapSettings(**settings), reference_padding=reference_padding)


@pytest.mark.parametrize("reference_padding", [False, True])
@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    ("context", "heads", "layers"),
    [("frames", 1, 1), ("frames", 4, 1), ("frames", 2, 3), ("words", 1, 1), ("words", 4, 2)],
)
def test_matches_the_loop(inputs, random_words, context, heads, layers, query, reference_padding):
    text, frames, mask = inputs(num_texts=3, num_videos=4, num_frames=4, dim=8)
    tokens, real = random_words(num_texts=3, num_words=5, dim=8)
    psi = make_psi(
        8,
        context=context,
        heads=heads,
        layers=layers,
        reference_padding=reference_padding,
        **QUERIES[query],
    )
    _randomise(psi)
    delta = psi(text, frames, mask, (tokens, real))
    assert delta.shape == (3, 4, 8)
    for i, j in product(range(3), range(4)):
        words = (tokens[i], real[i])
        expected = slow.increment(psi, text[i], frames[j], mask[j], reference_padding, words)
        torch.testing.assert_close(delta[i, j], expected)


def test_512_dimensions_have_the_published_number_of_parameters():
    assert sum(p.numel() for p in make_psi(512).parameters()) == 1_579_008


def test_a_second_layer_has_its_own_norms_and_projections_and_one_mean_projection():
    one, two = (sum(p.numel() for p in make_psi(8, layers=n).parameters()) for n in (1, 2))
    assert two - one == 5 * (64 + 8) + 3 * 16


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_parameter_gets_a_gradient(inputs, random_words, context):
    psi = make_psi(16, layers=2, context=context).double()
    psi(*inputs(), random_words()).square().sum().backward()
    assert all(p.grad is not None for p in psi.parameters())


def test_padding_and_frame_order_change_nothing(inputs):
    text, frames, mask = inputs()
    psi = _randomise(make_psi(16, heads=2))
    expected = psi(text, frames, mask, None)
    padded = torch.cat([frames, torch.full_like(frames[:, :3], 5.0)], dim=1)
    padded_mask = torch.nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(psi(text, padded, padded_mask, None), expected)
    torch.testing.assert_close(psi(text, frames.flip(1), mask.flip(1), None), expected)
    psi.reference_padding = True
    assert not torch.allclose(psi(text, padded, padded_mask, None), expected)


@pytest.mark.parametrize("reference_padding", [False, True])
def test_padded_words_change_nothing_even_with_reference_padding(
    inputs, random_words, reference_padding
):
    text, frames, mask = inputs()
    tokens, real = random_words()
    psi = _randomise(make_psi(16, context="words", reference_padding=reference_padding))
    expected = psi(text, frames, mask, (tokens, real))
    padded = torch.cat([tokens, torch.full_like(tokens[:, :3], 5.0)], dim=1)
    padded_real = torch.nn.functional.pad(real, (0, 3))
    found = psi(text, frames, mask, (padded, padded_real))
    torch.testing.assert_close(found, expected)


def test_dropout_acts_in_training_only(inputs):
    text, frames, mask = inputs()
    psi = make_psi(16, dropout=0.3, layers=2).double()
    assert not torch.equal(psi(text, frames, mask, None), psi(text, frames, mask, None))
    psi.eval()
    assert torch.equal(psi(text, frames, mask, None), psi(text, frames, mask, None))
    still = make_psi(16, dropout=0.0).double()
    assert torch.equal(still(text, frames, mask, None), still(text, frames, mask, None))


def test_inits():
    torch.manual_seed(0)
    normal, identity = make_psi(128), make_psi(128, init="identity", layers=2)
    assert abs(normal.layers[0].linear1.weight.std().item() - 0.02) < 1e-3
    for layer in identity.layers:
        assert torch.equal(layer.out_proj.weight, torch.eye(128))
    assert all((m.layers[0].linear1.bias == 0).all() for m in (normal, identity))


@pytest.mark.parametrize("context", CONTEXTS)
def test_without_a_real_token_values_and_gradients_are_finite(inputs, random_words, context):
    text, frames, mask = inputs()
    tokens, real = random_words()
    mask[2] = False
    real[1] = False
    frames.requires_grad_()
    tokens.requires_grad_()
    psi = make_psi(16, context=context).double()
    delta = psi(text, frames, mask, (tokens, real))
    delta.norm(dim=-1).sum().backward()
    assert delta.isfinite().all()
    gradients = [frames.grad, tokens.grad] + [p.grad for p in psi.parameters()]
    assert all(g.isfinite().all() for g in gradients if g is not None)


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("context", "layers"), [("frames", 1), ("frames", 2), ("words", 1)])
def test_gradcheck(inputs, random_words, context, layers, query):
    text, frames, mask = inputs(num_texts=2, num_videos=2, num_frames=3, dim=4)
    tokens, real = random_words(num_texts=2, num_words=3, dim=4)
    psi = make_psi(4, heads=2, dropout=0.0, context=context, layers=layers, **QUERIES[query])
    _randomise(psi)
    mask[0] = False

    def delta(text, frames, tokens):
        return psi(text, frames, mask, (tokens, real))

    arguments = tuple(tensor.requires_grad_() for tensor in (text, frames, tokens))
    assert torch.autograd.gradcheck(delta, arguments, fast_mode=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "head.gap.heads is 3; it must divide dim = 16"),
        ({"heads": 0}, "head.gap.heads is 0: input should be greater than or equal to 1"),
        ({"heads": True}, "head.gap.heads is True: input should be a valid integer"),
        ({"layers": 0}, "head.gap.layers is 0"),
        ({"dropout": 1.0}, "head.gap.dropout is 1.0: input should be less than 1"),
        ({"init": "zeros"}, "head.gap.init is 'zeros': input should be 'normal' or 'identity'"),
        ({"side": "videos"}, "head.gap.side is 'videos': input should be 'text' or 'video'"),
        ({"context": "word"}, "head.gap.context is 'word': input should be 'frames' or 'words'"),
        ({"query": "none"}, "head.gap.query is 'none': input should be 'gap' or 'text'"),
        ({"eta": 0}, "head.gap.eta is 0: input should be 1 or -1"),
        ({"depth": 2}, "unknown setting of head.gap 'depth'; known: context, dropout, eta, heads"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_head(dim=16, max_frames=2, gap=settings)


def test_words_are_asked_for(inputs):
    with pytest.raises(ConfigError, match=r"gap.context is words, and no word tokens were given"):
        make_psi(16, context="words").double()(*inputs(), None)


def _randomise(psi):
    generator = torch.Generator().manual_seed(1)
    for parameter in psi.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return psi.eval()
