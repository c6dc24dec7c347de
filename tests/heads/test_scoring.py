import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gare_cache.errors import ConfigError
from gare_cache.heads.pooling import build_pooling
from gare_cache.heads.retrieval import build_head
from gare_cache.heads.scoring import block_shape, exact_increment, pair_cosine, video_basis
from tests.heads import slow

CASES = ["similarity_7x5", "similarity_10x10", "similarity_9x9_heads4", "similarity_4x4"]
ARCHITECTURES = [
    ({"name": "mean"}, None, False),
    ({"name": "mean"}, None, True),
    ({"temperature": 0.7}, None, False),
    ({"temperature": 3.0}, {}, False),
    ({"temperature": 3.0}, {}, True),
    ({"temperature": 0.7}, {"heads": 2}, False),
    ({"temperature": 3.0}, {"heads": 8}, True),
    ({"name": "mean"}, {"heads": 4}, False),
    ({"name": "mean"}, {"heads": 4}, True),
]


def _head(dim, pooling, gap, reference_padding, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    head = build_head(
        dim=dim,
        max_frames=12,
        aggregator={"name": "mean"},
        pooling=pooling,
        gap=gap,
        reference_padding=reference_padding,
    )
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape)
    return head.to(dtype).eval()


@pytest.mark.parametrize("case", CASES)
def test_exact_score_matches_the_reference(case, reference, reference_head):
    values = reference(case)
    head = reference_head(values)
    scores = head.similarity(values["text"], values["frames"], values["mask"].bool())
    assert (scores - values["eval.similarity"]).abs().max() < 1e-5


@pytest.mark.parametrize(("pooling", "gap", "reference_padding"), ARCHITECTURES)
def test_exact_equals_dense_in_float64(inputs, pooling, gap, reference_padding):
    for seed, num_frames in itertools.product(range(3), (1, 2, 7)):
        text, frames, mask = inputs(6, 5, num_frames, 32, seed=seed)
        head = _head(32, pooling, gap, reference_padding, seed=seed)
        dense = head(text, frames, mask).similarity
        exact = head.similarity(text, frames, mask)
        assert (exact - dense).abs().max() < 1e-9


def test_exact_equals_dense_in_float32_on_features_like_clips(inputs):
    """A large common component and near-equal frames are what could cancel."""
    text, frames, mask = inputs(20, 20, 12, 512, torch.float32)
    common = torch.randn(512, generator=torch.Generator().manual_seed(3))
    text = 0.3 * text + 0.25 * common
    frames = 0.25 * common.flip(0) + 0.3 * frames[:, :1] + 0.03 * frames
    head = build_head(dim=512, max_frames=12, aggregator={"name": "mean"}, gap={}).eval()
    difference = head.similarity(text, frames, mask) - head(text, frames, mask).similarity
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


@pytest.mark.parametrize("heads", [1, 4])
def test_exact_increment_rebuilds_delta(inputs, heads):
    text, frames, mask = inputs(dim=32)
    head = _head(32, {}, {"heads": heads}, False)
    basis = video_basis(frames, mask, head.interaction.pooling, gap=head.interaction.gap)
    delta = head(text, frames, mask).delta
    torch.testing.assert_close(exact_increment(text, basis.gap), delta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("gap", [None, {}, {"heads": 2}])
@pytest.mark.parametrize("block_bytes", [1, 9_000, 60_000])
def test_blocks_change_nothing(inputs, block_bytes, gap):
    text, frames, mask = inputs(11, 7, 4, 16)
    head = _head(16, {}, gap, False)
    whole = head.similarity(text, frames, mask)
    cut = head.similarity(text, frames, mask, block_bytes=block_bytes)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)


class _Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("gap", [None, {}], ids=["text_conditioned", "gap"])
def test_no_pair_tensor_is_made(inputs, gap):
    text, frames, mask = inputs(60, 50, 3, 128, torch.float32)
    head = _head(128, {}, gap, False, torch.float32)
    with _Largest() as largest:
        head.similarity(text, frames, mask)
    assert largest.numel <= 50 * 5 * 128 < 60 * 50 * 128
    with _Largest() as dense, torch.no_grad():
        head(text, frames, mask)
    assert dense.numel >= 60 * 50 * 128


def test_block_shape_follows_the_memory():
    arguments = {"gap_heads": 1, "element_bytes": 4}
    small = block_shape(12, 512, block_bytes=8 * 2**20, **arguments)
    large = block_shape(12, 512, block_bytes=256 * 2**20, **arguments)
    assert small[1] < large[1]
    assert block_shape(12, 512, block_bytes=1, **arguments) == (1, 1)
    assert block_shape(12, 512, gap_heads=0, element_bytes=4, block_bytes=2**26) > (1, 1)
    with pytest.raises(ConfigError, match="block_bytes is 0"):
        block_shape(12, 512, block_bytes=0, **arguments)


def test_pair_cosine_orientation():
    """2 texts x 3 videos: rows are texts."""
    text = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    videos = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    scores = pair_cosine(text[:, None], videos[None])
    assert scores.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_basis_is_built_once_for_all_texts(inputs):
    text, frames, mask = inputs()
    head = _head(16, {}, {}, False)
    calls = []
    head.interaction.gap.key_proj.register_forward_hook(lambda *_: calls.append(1))
    head.similarity(text, frames, mask, block_bytes=30_000)
    per_text_and_video = len(text) * len(frames)
    assert len(calls) <= len(frames) < per_text_and_video


def test_basis_of_the_mean_has_one_slot(inputs):
    _, frames, mask = inputs()
    assert video_basis(frames, mask, build_pooling({"name": "mean"})).slots.shape == (4, 1, 16)
