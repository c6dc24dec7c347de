import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.heads.gap import GapModule, complete_gap_settings, gap_context
from tests.heads import slow


def _delta(psi, text, frames, mask, reference_padding=False):
    mean, attended = gap_context(frames, mask, reference_padding)
    return psi(mean - text[:, None], frames, attended)


@pytest.mark.parametrize("reference_padding", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_matches_the_loop(inputs, heads, reference_padding):
    text, frames, mask = inputs(num_texts=3, num_videos=3, num_frames=4, dim=8)
    psi = _randomised(GapModule(8, heads=heads))
    delta = _delta(psi, text, frames, mask, reference_padding)
    for i in range(3):
        for j in range(3):
            expected = slow.increment(psi, text[i], frames[j], mask[j], reference_padding)
            torch.testing.assert_close(delta[i, j], expected)


def test_512_dimensions_have_the_published_number_of_parameters():
    assert sum(p.numel() for p in GapModule(512).parameters()) == 1_579_008


def test_every_parameter_gets_a_gradient(inputs):
    text, frames, mask = inputs()
    psi = GapModule(16).double()
    _delta(psi, text, frames, mask).square().sum().backward()
    assert all(p.grad is not None for p in psi.parameters())


def test_padding_and_frame_order_change_nothing(inputs):
    text, frames, mask = inputs()
    psi = _randomised(GapModule(16, heads=2))
    expected = _delta(psi, text, frames, mask)
    padded = torch.cat([frames, torch.full_like(frames[:, :3], 5.0)], dim=1)
    padded_mask = torch.nn.functional.pad(mask, (0, 3))
    torch.testing.assert_close(_delta(psi, text, padded, padded_mask), expected)
    torch.testing.assert_close(_delta(psi, text, frames.flip(1), mask.flip(1)), expected)
    assert not torch.allclose(_delta(psi, text, padded, padded_mask, True), expected)


def test_dropout_acts_in_training_only(inputs):
    text, frames, mask = inputs()
    psi = GapModule(16, dropout=0.3).double()
    assert not torch.equal(_delta(psi, text, frames, mask), _delta(psi, text, frames, mask))
    psi.eval()
    assert torch.equal(_delta(psi, text, frames, mask), _delta(psi, text, frames, mask))
    still = GapModule(16, dropout=0.0).double()
    assert torch.equal(_delta(still, text, frames, mask), _delta(still, text, frames, mask))


def test_inits():
    torch.manual_seed(0)
    normal, identity = GapModule(128), GapModule(128, init="identity")
    assert abs(normal.linear1.weight.std().item() - 0.02) < 1e-3
    assert torch.equal(identity.out_proj.weight, torch.eye(128))
    assert all((m.linear1.bias == 0).all() for m in (normal, identity))


def test_without_a_real_frame_values_and_gradients_are_finite(inputs):
    text, frames, mask = inputs()
    mask[2] = False
    frames.requires_grad_()
    psi = GapModule(16).double()
    delta = _delta(psi, text, frames, mask)
    delta.norm(dim=-1).sum().backward()
    assert delta.isfinite().all()
    assert frames.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in psi.parameters())


def test_gradcheck(inputs):
    text, frames, mask = inputs(num_texts=2, num_videos=2, num_frames=3, dim=4)
    psi = _randomised(GapModule(4, heads=2, dropout=0.0))
    mask[0] = False
    arguments = (text.requires_grad_(), frames.requires_grad_())
    assert torch.autograd.gradcheck(lambda t, f: _delta(psi, t, f, mask), arguments, fast_mode=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "gap.heads is 3; it must divide dim = 16"),
        ({"heads": 0}, "gap.heads is 0"),
        ({"heads": True}, "gap.heads is True"),
        ({"dropout": 1.0}, r"gap.dropout is 1.0; it must be in \[0, 1\)"),
        ({"init": "zeros"}, "unknown gap.init 'zeros'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ConfigError, match=message):
        GapModule(16, **arguments)


def test_unknown_setting_lists_the_known_ones():
    with pytest.raises(ConfigError, match="'depth' of gap; known: dropout, heads, init"):
        complete_gap_settings({"depth": 2})


def _randomised(psi):
    generator = torch.Generator().manual_seed(1)
    for parameter in psi.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return psi.eval()
