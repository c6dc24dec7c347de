import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.heads.aggregators import AGGREGATORS, TransformerAggregator
from gare_cache.heads.retrieval import build_head
from gare_cache.heads.settings import TransformerSettings
from tests.plain_head import plain_head

SETTINGS = [{"name": name} for name in AGGREGATORS]
ids = list(AGGREGATORS)


def build_aggregator(settings, *, dim, max_frames):
    return plain_head(dim=dim, max_frames=max_frames, aggregator=settings).aggregator


def test_transformer_matches_the_reference(reference):
    values = reference("aggregator")
    frames, mask = values["frames"], values["mask"].bool()
    settings = {"name": "transformer", "layers": 2, "heads": int(values["heads"])}
    aggregator = build_aggregator(settings, dim=64, max_frames=12)
    blocks = {k.removeprefix("transformer."): v for k, v in values.items() if "resblocks" in k}
    aggregator.load_state_dict({"positional_embedding": values["position"][:12], **blocks})
    difference = (aggregator(frames, mask) - values["seqTransf"]).abs().max()
    assert difference < 1e-5


def test_lstm_matches_the_reference(reference):
    values = reference("aggregator")
    aggregator = build_aggregator({"name": "lstm"}, dim=64, max_frames=12)
    aggregator.load_state_dict({k: v for k, v in values.items() if k.startswith("lstm.")})
    out = aggregator(values["frames"], values["mask"].bool())
    assert (out - values["seqLSTM"]).abs().max() < 1e-5


def test_mean_is_the_identity_and_has_no_parameters(inputs):
    _, frames, mask = inputs()
    aggregator = build_aggregator({"name": "mean"}, dim=16, max_frames=6)
    assert torch.equal(aggregator(frames, mask), frames)
    assert not list(aggregator.parameters())


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_contract(settings, inputs):
    """Shape, dtype, padding invariance, independence of videos, finite gradients."""
    _, frames, mask = inputs()
    aggregator = build_aggregator(settings, dim=16, max_frames=8).double()
    out = aggregator(frames, mask)
    assert out.shape == frames.shape
    assert out.dtype == frames.dtype

    padded = torch.cat([frames, torch.full_like(frames[:, :2], 7.0)], dim=1)
    padded_mask = torch.nn.functional.pad(mask, (0, 2))
    torch.testing.assert_close(aggregator(padded, padded_mask)[:, :6][mask], out[mask])

    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(aggregator(frames[order], mask[order]), out[order])

    frames = frames.clone().requires_grad_()
    empty = mask.clone()
    empty[0] = False
    aggregator(frames, empty).square().sum().backward()
    assert frames.grad.isfinite().all()


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_order_of_frames_matters(name, inputs):
    _, frames, _ = inputs()
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    aggregator = build_aggregator({"name": name}, dim=16, max_frames=6).double()
    reverse = aggregator(frames.flip(1), mask).flip(1)
    assert not torch.allclose(reverse, aggregator(frames, mask), atol=1e-4)


def test_transformer_settings_change_the_module(inputs):
    _, frames, mask = inputs(dim=64)
    results = {}
    for key, value in [("layers", 2), ("layers", 3), ("heads", 2), ("heads", None)]:
        torch.manual_seed(0)
        aggregator = build_aggregator({"name": "transformer", key: value}, dim=64, max_frames=6)
        results[key, value] = aggregator.double()(frames, mask)
    assert not torch.allclose(results["layers", 2], results["layers", 3])
    assert not torch.allclose(results["heads", 2], results["heads", None])


@pytest.mark.parametrize(("dim", "heads"), [(32, 1), (64, 1), (128, 2), (512, 8)])
def test_transformer_has_a_head_for_every_64_dimensions(dim, heads):
    aggregator = build_aggregator({"name": "transformer", "layers": 1}, dim=dim, max_frames=2)
    assert aggregator.heads == heads


def test_gradcheck_of_the_transformer(inputs):
    _, frames, mask = inputs(num_videos=2, num_frames=3, dim=4)
    aggregator = build_aggregator({"name": "transformer", "layers": 1}, dim=4, max_frames=3)
    aggregator.double()
    assert torch.autograd.gradcheck(
        lambda f: aggregator(f, mask), frames.requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize(
    ("settings", "dim", "message"),
    [
        ({"name": "lstn"}, 16, "unknown head.aggregator.name 'lstn'; did you mean 'lstm'"),
        (
            {"name": "lstm", "layers": 2},
            16,
            "head.aggregator.layers is 2, but aggregator 'lstm' has no such setting; set",
        ),
        ({"name": "transformer", "layer": 2}, 16, "'layer'; did you mean 'layers'"),
        ({"name": "transformer", "layers": 0}, 16, "head.aggregator.layers is 0: input should be"),
        ({"name": "transformer", "heads": 0}, 16, "head.aggregator.heads is 0: input should be"),
        ({"name": "transformer", "init": "clip"}, 16, "head.aggregator.init is 'clip': input shou"),
        ({"name": "transformer"}, 200, "cannot split dim = 200 into 3 heads"),
    ],
)
def test_errors(settings, dim, message):
    with pytest.raises(ConfigError, match=message):
        build_head(dim=dim, max_frames=6, aggregator=settings)


def test_more_frames_than_positions_is_an_error(inputs):
    _, frames, mask = inputs()
    aggregator = build_aggregator({"name": "transformer"}, dim=16, max_frames=5)
    with pytest.raises(ConfigError, match=r"6 frame slots.*max_frames = 5"):
        aggregator(frames.float(), mask)


def test_a_random_transformer_starts_as_published():
    torch.manual_seed(0)
    module = TransformerAggregator(TransformerSettings(init="random"), dim=128, max_frames=4)
    block = module.resblocks[0]
    bound = (6 / (128 + 3 * 128)) ** 0.5  # Glorot's uniform rule for (3 D, D)
    assert bound * 0.99 < block.attn.in_proj_weight.abs().max() <= bound
    for weight in (block.attn.out_proj.weight, block.mlp.c_fc.weight, module.positional_embedding):
        assert weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not block.attn.in_proj_bias.any()
