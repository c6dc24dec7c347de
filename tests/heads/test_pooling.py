import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.heads.masking import masked_softmax, mean_pool
from gare_cache.heads.pooling import (
    CrossAttentionPooling,
    TextConditionedPooling,
    build_pooling,
    pool,
)
from gare_cache.heads.retrieval import build_head
from gare_cache.heads.settings import (
    CrossAttentionSettings,
    MeanPoolingSettings,
    TextConditionedSettings,
)
from tests.heads import slow
from tests.plain_head import plain_head


def text_conditioned_pool(text, frames, mask, reference_padding=False, **settings):
    settings = TextConditionedSettings(**settings)
    pooling = TextConditionedPooling(settings.temperature, reference_padding)
    return pool(pooling, text, frames, mask)


def x_pool(dim, **settings):
    return CrossAttentionPooling(dim, CrossAttentionSettings(**settings))


def test_mean_pool_by_hand():
    frames = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    assert mean_pool(frames, mask).tolist() == [[2.0, 4.0]]
    reference = mean_pool(frames, mask, reference_padding=True)
    torch.testing.assert_close(reference, torch.tensor([[13 / 3, 17 / 3]]))


@pytest.mark.parametrize("reference_padding", [False, True])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_text_conditioned_pool_matches_the_loop(inputs, temperature, reference_padding):
    text, frames, mask = inputs()
    pooled, weights = text_conditioned_pool(
        text, frames, mask, temperature=temperature, reference_padding=reference_padding
    )
    for i in range(len(text)):
        for j in range(len(frames)):
            expected = slow.pooled(text[i], frames[j], mask[j], temperature, reference_padding)
            torch.testing.assert_close(pooled[i, j], expected)
    assert weights.shape == (5, 4, 6)
    assert (weights[:, ~mask] == 0).all()


def test_pooled_videos_have_the_reference_direction(reference):
    values = reference("similarity_7x5")
    pooled, _ = text_conditioned_pool(values["text"], values["frames"], values["mask"].bool())
    expected = values["eval.pooled"]
    cosine = torch.cosine_similarity(pooled, expected, dim=-1)
    assert (cosine - 1).abs().max() < 1e-5
    unnormalised, _ = text_conditioned_pool(
        values["text"], values["frames"], values["mask"].bool(), reference_padding=True
    )
    assert (unnormalised - expected).abs().max() < 1e-5


def test_real_weights_sum_to_one_and_reference_padding_shrinks_them(inputs):
    text, frames, mask = inputs()
    _, weights = text_conditioned_pool(text, frames, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 4, dtype=torch.float64))
    _, shrunk = text_conditioned_pool(text, frames, mask, reference_padding=True)
    assert (shrunk.sum(-1)[:, ~mask.all(1)] < 1).all()


@pytest.mark.parametrize("reference_padding", [False, True])
def test_no_real_frame_gives_zero_and_finite_gradients(inputs, reference_padding):
    text, frames, mask = inputs()
    mask[1] = False
    frames.requires_grad_()
    pooled, weights = text_conditioned_pool(text, frames, mask, reference_padding=reference_padding)
    assert (pooled[:, 1] == 0).all()
    assert (weights[:, 1] == 0).all()
    (pooled.norm(dim=-1).sum() + mean_pool(frames, mask).sum()).backward()
    assert frames.grad.isfinite().all()
    assert (mean_pool(frames, mask)[1] == 0).all()


def test_masked_softmax_by_hand():
    scores = torch.tensor([[0.0, 0.0, 50.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_softmax(scores, mask).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_mean_pooling_is_the_same_for_every_text(inputs):
    text, frames, mask = inputs()
    pooled, _ = pool(build_pooling(MeanPoolingSettings(), dim=16), text, frames, mask)
    torch.testing.assert_close(pooled, mean_pool(frames, mask)[None])


@pytest.mark.parametrize("heads", [1, 4])
def test_cross_attention_matches_the_loop(inputs, heads):
    text, frames, mask = inputs()
    pooling = x_pool(16, heads=heads).double().eval()
    for parameter in pooling.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    pooled = pooling(text, frames, mask)
    for i in range(len(text)):
        for j in range(len(frames)):
            expected = slow.attended(pooling.layer, text[i], list(frames[j][mask[j]]))
            torch.testing.assert_close(pooled[i, j], expected)


def test_cross_attention_starts_at_the_identity(inputs):
    """Identity projections: a softmax of normalised products over normalised frames, LN twice."""
    text, frames, mask = inputs()
    norm = torch.nn.LayerNorm(16).double()
    pooled = x_pool(16).double().eval()(text, frames, mask)
    products = torch.einsum("td,vfd->tvf", norm(text), norm(frames)) / 4
    weights = masked_softmax(products, mask)
    attended = norm(torch.einsum("tvf,vfd->tvd", weights, norm(frames)))
    torch.testing.assert_close(pooled, norm(2 * attended))


def test_cross_attention_drops_out_in_training_only(inputs):
    pooling = x_pool(16, dropout=0.3).double()
    assert not torch.equal(pooling(*inputs()), pooling(*inputs()))
    pooling.eval()
    assert torch.equal(pooling(*inputs()), pooling(*inputs()))
    still = x_pool(16, dropout=0.0).double()
    assert torch.equal(still(*inputs()), still(*inputs()))


def test_gradcheck_of_cross_attention(inputs):
    text, frames, mask = inputs(num_texts=2, num_videos=2, num_frames=3, dim=4)
    mask[0] = False
    pooling = x_pool(4, heads=2, dropout=0.0).double()
    arguments = (text.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(lambda t, f: pooling(t, f, mask), arguments, fast_mode=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "max"}, "unknown head.pooling.name 'max'; known: cross_attention, mean, text"),
        (
            {"name": "mean", "temperature": 1.0},
            "head.pooling.temperature is 1.0, but pooling 'mean' has no such setting; set",
        ),
        (
            {"name": "text_conditioned", "temp": 1.0},
            "unknown setting of head.pooling 'temp'; known: dropout, frame_norm, heads, name, ",
        ),
        ({"temperature": 0.0}, "head.pooling.temperature is 0.0: input should be greater than 0"),
        ({"temperature": float("nan")}, "head.pooling.temperature is nan"),
        ({"name": "cross_attention", "heads": 3}, "pooling.heads is 3; it must divide dim = 16"),
        ({"name": "cross_attention", "dropout": 1.0}, "pooling.dropout is 1.0: input should be le"),
        (
            {"name": "cross_attention", "temperature": 1.0},
            "set head.pooling.temperature: null",
        ),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ConfigError, match=message):
        build_head(dim=16, max_frames=2, pooling=settings)


def test_frame_norm_averages_unit_frames():
    frames = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    mask = torch.tensor([[True, True, False]])
    plain, normed = (
        build_pooling(MeanPoolingSettings(frame_norm=norm), dim=2).slots(frames, mask)[0]
        for norm in (False, True)
    )
    assert plain.tolist() == [[[1.5, 0.5]]]
    assert normed.tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize("lead", [1.0, 40.0, 200.0])
def test_padding_that_leads_leaves_the_direction(lead):
    """A padded slot's logit leads by 40 and more: the reference in float64, ours in float32."""
    text = torch.tensor([[1.0, 0.0]])
    frames = torch.tensor([[[0.0, 1.0], [0.5, 0.2], [lead, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    pooling = TextConditionedPooling(1.0, reference_padding=True)
    products = (text @ frames[0].T)[:, None]
    weights = pooling.weights(products, mask)
    reference = products.double().softmax(dim=-1) * mask
    assert torch.allclose(weights.double(), reference, rtol=1e-4, atol=1e-30)
    alone = {"name": "mean"}
    head = plain_head(dim=2, max_frames=3, gap=None, aggregator=alone, pooling={"temperature": 1.0})
    padded = plain_head(
        dim=2,
        max_frames=3,
        aggregator=alone,
        pooling={"temperature": 1.0},
        gap={"context": "frames"},
        reference_padding=True,
    )
    for parameter in padded.interaction.gap.parameters():
        parameter.data.zero_()  # no increment: the pooled video alone is compared
    for module in (padded.similarity, lambda *given: padded.eval()(*given).similarity):
        assert torch.allclose(module(text, frames, mask), head.similarity(text, frames, mask))
