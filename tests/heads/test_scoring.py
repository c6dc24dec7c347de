import copy
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gare_cache.errors import ConfigError
from gare_cache.heads import pooled
from gare_cache.heads.exact import text_basis, video_basis
from gare_cache.heads.pooling import build_pooling
from gare_cache.heads.scoring import Footprint, block_shape, pair_cosine
from gare_cache.heads.settings import CONTEXTS, SIDES, MeanPoolingSettings
from tests.heads import slow
from tests.plain_head import plain_head

CASES = ["similarity_7x5", "similarity_10x10", "similarity_9x9_heads4", "similarity_4x4"]
ARCHITECTURES = [
    ({"name": "mean"}, None, False),
    ({"temperature": 0.7}, None, False),
    ({"temperature": 3.0}, {}, False),
    ({"temperature": 3.0}, {}, True),
    ({"temperature": 0.7}, {"heads": 2}, False),
    ({"temperature": 3.0}, {"heads": 8}, True),
    ({"name": "mean"}, {"heads": 4}, False),
    ({"name": "mean"}, {"heads": 4}, True),
    ({"name": "cross_attention"}, None, False),
    ({"name": "cross_attention", "heads": 4}, None, False),
    ({"name": "cross_attention", "heads": 2}, {"heads": 2}, False),
]
QUERIES = ({}, {"eta": -1}, {"query": "text"})
# Heads without an exact form.
DENSE = {
    "deep": {"gap": {"layers": 2, "heads": 2}},
    "deep_words": {"gap": {"layers": 2, "context": "words", "side": "video"}},
    "token_wise": {"interaction": {"name": "token_wise"}},
}


def _head(dim, pooling=None, gap=None, reference_padding=False, dtype=None, seed=0, **settings):
    torch.manual_seed(seed)
    head = plain_head(
        dim=dim,
        max_frames=12,
        aggregator={"name": "mean"},
        gap=gap,
        reference_padding=reference_padding,
        **({} if pooling is None else {"pooling": pooling}),
        **settings,
    )
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return head.to(dtype or torch.float64).eval()


@pytest.mark.parametrize("case", CASES)
def test_exact_score_matches_the_reference(case, reference, reference_head):
    values = reference(case)
    head = reference_head(values)
    scores = head.similarity(values["text"], values["frames"], values["mask"].bool())
    assert (scores - values["eval.similarity"]).abs().max() < 1e-5


@pytest.mark.parametrize(("pooling", "gap", "reference_padding"), ARCHITECTURES)
def test_exact_equals_dense_in_float64(inputs, pooling, gap, reference_padding):
    for seed, num_frames in product(range(3), (1, 2, 7)):
        text, frames, mask = inputs(8, 5, num_frames, 32, seed=seed)
        head = _head(32, pooling, gap, reference_padding, seed=seed)
        dense = head(text, frames, mask).similarity
        exact = head.similarity(text, frames, mask)
        assert (exact - dense).abs().max() < 1e-9


@pytest.mark.parametrize("reference_padding", [False, True])
@pytest.mark.parametrize("query", QUERIES, ids=["gap", "negated", "text"])
@pytest.mark.parametrize(
    "pooling",
    [{"name": "mean"}, {"name": "text_conditioned"}, {"name": "cross_attention"}],
    ids=["mean", "text", "cross_attention"],
)
@pytest.mark.parametrize(("side", "context"), list(product(SIDES, CONTEXTS)))
def test_every_side_and_context_is_exact_in_float64(
    inputs, random_words, side, context, pooling, query, reference_padding
):
    gap = {"side": side, "context": context, **query}
    for seed, (num_tokens, heads) in enumerate([(1, 1), (2, 4), (7, 2)]):
        text, frames, mask = inputs(8, 5, num_tokens, 32, seed=seed)
        words = random_words(8, num_tokens, 32, seed=seed)
        without_length = side == "text" or pooling["name"] == "cross_attention"
        idle = context == "words" and "query" in query and without_length
        head = _head(32, pooling, {**gap, "heads": heads}, reference_padding and not idle)
        assert head.exact
        dense = head(text, frames, mask, words).similarity
        exact = head.similarity(text, frames, mask, words)
        assert (exact - dense).abs().max() < 1e-9


@pytest.mark.parametrize(("side", "context"), list(product(SIDES, CONTEXTS)))
def test_exact_equals_dense_in_float32_on_features_like_clips(inputs, random_words, side, context):
    """A large common component and near-equal tokens are what could cancel."""
    text, frames, mask = inputs(20, 20, 12, 512, torch.float32)
    tokens, real = random_words(20, 9, 512, torch.float32)
    common = torch.randn(512, generator=torch.Generator().manual_seed(3))
    text = 0.3 * text + 0.25 * common
    tokens = 0.3 * text[:, None] + 0.1 * common + 0.05 * tokens
    frames = 0.25 * common.flip(0) + 0.3 * frames[:, :1] + 0.03 * frames
    head = plain_head(
        dim=512,
        max_frames=12,
        aggregator={"name": "mean"},
        gap={"side": side, "context": context},
    ).eval()
    words = (tokens, real)
    dense = head(text, frames, mask, words).similarity
    difference = head.similarity(text, frames, mask, words) - dense
    assert difference.abs().max() < 1e-6


@pytest.mark.parametrize("reference_padding", [False, True])
def test_exact_score_matches_the_loop(inputs, reference_padding):
    text, frames, mask = inputs(3, 4, 5, 8)
    head = _head(8, {"temperature": 2.0}, {"heads": 2}, reference_padding)
    scores = head.similarity(text, frames, mask)
    for i in range(3):
        for j in range(4):
            delta = slow.increment(
                head.interaction.gap, text[i], frames[j], mask[j], reference_padding
            )
            pooled = slow.pooled(text[i], frames[j], mask[j], 2.0, reference_padding)
            expected = slow.cosine(text[i] + delta, pooled)
            assert scores[i, j].item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("reference_padding", [False, True])
@pytest.mark.parametrize(("side", "context"), list(product(SIDES, CONTEXTS)))
def test_the_score_of_either_side_matches_the_loop(
    inputs, random_words, side, context, reference_padding
):
    text, frames, mask = inputs(3, 4, 5, 8)
    tokens, real = random_words(3, 4, 8)
    head = _head(8, {"temperature": 2.0}, {"side": side, "context": context}, reference_padding)
    dense = head(text, frames, mask, (tokens, real)).similarity
    exact = head.similarity(text, frames, mask, (tokens, real))
    for i, j in product(range(3), range(4)):
        psi, words = head.interaction.gap, (tokens[i], real[i])
        delta = slow.increment(psi, text[i], frames[j], mask[j], reference_padding, words)
        pooled = slow.pooled(text[i], frames[j], mask[j], 2.0, reference_padding)
        shift = (delta, 0) if side == "text" else (0, delta)
        expected = slow.cosine(text[i] + shift[0], pooled + shift[1])
        assert dense[i, j].item() == pytest.approx(expected, abs=1e-10)
        assert exact[i, j].item() == pytest.approx(expected, abs=1e-10)


def test_the_exact_score_never_leaves_the_increment_out_for_want_of_words(inputs):
    text, _, _ = inputs()
    gap = _head(16, {}, {"context": "words"}).interaction.gap
    with pytest.raises(ConfigError, match=r"gap.context is words, and no word tokens were given"):
        text_basis(text, None, gap)


@pytest.mark.parametrize(
    "gap", [None, {}, {"heads": 2}, {"context": "words", "heads": 2}, {"side": "video"}], ids=str
)
@pytest.mark.parametrize("block_bytes", [1, 9_000, 60_000, 400_000])
def test_blocks_change_nothing(inputs, random_words, block_bytes, gap):
    text, frames, mask = inputs(11, 7, 4, 16)
    words = random_words(11)
    head = _head(16, {}, gap)
    whole = head.similarity(text, frames, mask, words)
    cut = head.similarity(text, frames, mask, words, block_bytes=block_bytes)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", DENSE.values(), ids=DENSE)
@pytest.mark.parametrize("block_bytes", [1, 60_000, 2**28])
def test_without_an_exact_form_blocks_are_scored_densely(
    inputs, random_words, block_bytes, settings
):
    text, frames, mask = inputs(11, 7, 4, 16)
    words = random_words(11)
    head = _head(16, **settings)
    assert not head.exact
    dense = head(text, frames, mask, words).similarity
    cut = head.train().similarity(text, frames, mask, words, block_bytes=block_bytes)
    torch.testing.assert_close(cut, dense, rtol=0, atol=1e-12)
    assert not cut.requires_grad
    assert all(part.training for part in head.modules())


def test_every_part_keeps_its_own_mode(inputs):
    head = _head(16, gap={"layers": 2})
    head.interaction.train()
    head.interaction.gap.layers[1].eval()
    modes = [part.training for part in head.modules()]
    head.similarity(*inputs())
    assert [part.training for part in head.modules()] == modes


class _Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("gap", [None, {}, {"side": "video"}], ids=str)
def test_no_pair_tensor_is_made(inputs, gap):
    text, frames, mask = inputs(60, 50, 3, 128, torch.float32)
    head = _head(128, {}, gap, dtype=torch.float32)
    with _Largest() as largest:
        head.similarity(text, frames, mask)
    rows = 3 + 3 + 5  # slots, keys and increment vectors of a video
    assert largest.numel <= 50 * rows * 128 < 60 * 50 * 128
    with _Largest() as dense, torch.no_grad():
        head(text, frames, mask)
    assert dense.numel >= 60 * 50 * 128


@pytest.mark.parametrize(
    "settings",
    [
        {"gap": {"context": "words"}},
        {"pooling": {"name": "cross_attention", "heads": 2}},
        {"pooling": {"name": "cross_attention"}, "gap": {"context": "words"}},
        *DENSE.values(),
    ],
    ids=str,
)
def test_the_largest_tensor_follows_the_memory(inputs, random_words, settings):
    text, frames, mask = inputs(60, 50, 3, 64, torch.float32)
    words = random_words(60, 6, 64, torch.float32)
    head = _head(64, dtype=torch.float32, **settings)
    for block_bytes in (2**18, 2**21):
        with _Largest() as largest:
            head.similarity(text, frames, mask, words, block_bytes=block_bytes)
        assert largest.numel * 4 <= block_bytes


def test_block_shape_follows_the_memory():
    videos = Footprint(encoding=100, video=50, text=0, pair=10)
    # Half of 60,000 numbers: 200 videos of 150; the other half: 15 texts of 200 pairs of 10.
    shape = block_shape(videos, element_bytes=4, block_bytes=240_000)
    assert (shape.texts, shape.videos, shape.kept) == (15, 200, 200)
    texts = Footprint(encoding=100, video=50, text=1000, pair=10)
    # A quarter, 15,000 numbers: 15 texts; 15 x 100 pairs of 10, and 100 videos of 150; 300 kept.
    shape = block_shape(texts, element_bytes=4, block_bytes=240_000)
    assert (shape.texts, shape.videos, shape.kept) == (15, 100, 300)
    for footprint in (videos, texts):
        shape = block_shape(footprint, element_bytes=4, block_bytes=1)
        assert (shape.texts, shape.videos, shape.kept) == (1, 1, 1)
        with pytest.raises(ConfigError, match="block_bytes is 0"):
            block_shape(footprint, element_bytes=4, block_bytes=0)


def test_large_pairs_leave_fewer_texts_a_block():
    footprint = Footprint(encoding=1, video=1, text=10, pair=1000)
    shape = block_shape(footprint, element_bytes=1, block_bytes=40_000)
    assert (shape.texts, shape.videos) == (10, 1)


def test_pair_cosine_orientation():
    """2 texts x 3 videos: rows are texts."""
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    videos = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    scores = pair_cosine(text[:, None], videos[None])
    assert scores.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


@pytest.mark.parametrize(("pooling", "gap", "reference_padding"), ARCHITECTURES)
def test_few_texts_are_scored_as_many(inputs, pooling, gap, reference_padding):
    for heads, num_texts in product((1, 4), (1, 3)):
        text, frames, mask = inputs(9, 5, 7, 32, seed=heads)
        of_heads = None if gap is None else {**gap, "heads": heads}
        head = _head(32, pooling, of_heads, reference_padding, seed=heads)
        many = head.similarity(text, frames, mask)
        few = head.similarity(text[:num_texts], frames, mask)
        assert (few - many[:num_texts]).abs().max() < 1e-9


def test_few_texts_need_no_projection_of_the_frames(inputs, monkeypatch):
    text, frames, mask = inputs(20, 30, 5, 16)
    head = _head(16, {}, {"context": "frames"})
    seen = []
    layer = head.interaction.gap.layers[0]
    layer.key_proj.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    prepared = []
    monkeypatch.setattr(
        pooled, "video_basis", lambda *of: (prepared.append(1), video_basis(*of))[1]
    )
    head.similarity(text[:4], frames, mask)
    assert not seen
    assert not prepared
    head.similarity(text[:5], frames, mask)
    assert prepared


@pytest.mark.parametrize("aggregator", ["mean", "lstm", "transformer"])
def test_encoded_frames_are_scored_as_they_are(inputs, aggregator):
    text, frames, mask = inputs(9, 5, 7, 32)
    head = plain_head(dim=32, max_frames=7, aggregator={"name": aggregator}).double().eval()
    assert head.encodes_frames == (aggregator != "mean")
    expected = head.similarity(text, frames, mask)
    with torch.no_grad():
        encoded = head.encode_frames(frames, mask)
    assert torch.equal(head.similarity(text, encoded, mask, encoded=True), expected)


@pytest.mark.parametrize("context", CONTEXTS)
def test_a_basis_is_built_once_for_its_owner(inputs, random_words, context):
    text, frames, mask = inputs(20, 30, 3, 16)
    words = random_words(20)
    head = _head(16, {}, {"context": context})
    seen = []
    layer = head.interaction.gap.layers[0]
    layer.norm1.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    head.similarity(text, frames, mask, words, block_bytes=300_000)
    assert sum(seen) == {"frames": 30, "words": 20}[context]
    assert len(seen) > 1


def test_the_aggregator_sees_every_video_once(inputs, random_words):
    text, frames, mask = inputs(20, 30, 3, 16)
    head = _head(16, {}, {"context": "words"})
    seen = []
    head.aggregator.register_forward_hook(lambda _, args, out: seen.append(len(out)))
    head.similarity(text, frames, mask, random_words(20), block_bytes=150_000)
    assert sum(seen) == 30
    assert len(seen) > 1


def test_basis_of_the_mean_has_one_slot(inputs):
    _, frames, mask = inputs()
    pooling = build_pooling(MeanPoolingSettings(), dim=16)
    assert video_basis(frames, mask, pooling, None).slots.shape == (4, 1, 16)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("left", [0.3, 0.03, 0.001, 0.0])
def test_an_increment_that_cancels_the_text_is_scored_densely(inputs, random_words, context, left):
    """|t + Delta| = left |t| for one text: the algebra alone was wrong by 5.7e-2 at 0.001."""
    text, frames, mask = (t.float() if t.is_floating_point() else t for t in inputs(6, 5, 4, 32))
    tokens, real = random_words(6, 3, 32)
    words = (tokens.float(), real)
    head = _head(32, gap={"context": context}, dtype=torch.float32)
    gap = head.interaction.gap
    gap.mean_proj.weight.data.zero_()
    gap.mean_proj.bias.data = -(1 - left) * text[2]
    exact = head.similarity(text, frames, mask, words)
    double = copy.deepcopy(head).double()
    as_double = (words[0].double(), real)
    dense = double(text.double(), frames.double(), mask, as_double).similarity
    others = [row for row in range(6) if row != 2 or left]
    assert (exact - dense)[others].abs().max() < 2e-5
    assert exact.isfinite().all()
