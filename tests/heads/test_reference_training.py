"""The whole training computation against the stored reference: losses and gradients."""

import pytest
import torch

from gare_cache.losses.objective import Objective


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [("similarity_10x10", 1e-4), ("similarity_9x9_heads4", 1e-4), ("similarity_4x4", 3e-3)],
)
def test_loss_and_gradients(case, tolerance, reference, reference_head, psi_names):
    values = reference(case)
    head = reference_head(values)
    text, frames = values["text"].requires_grad_(), values["frames"].requires_grad_()
    scores = head(text, frames, values["mask"].bool())
    loss = Objective()(scores.similarity, scores.delta, float(values["train.logit_scale"]))
    loss.total.backward()
    torch.testing.assert_close(loss.total, values["train.loss"], rtol=1e-5, atol=0)
    parameters = dict(head.interaction.gap.named_parameters())
    gradients = {"text": text.grad, "frames": frames.grad}
    gradients |= {f"psi.{a}": parameters[b].grad for a, b in psi_names.items()}
    for name, gradient in gradients.items():
        expected = values[f"grad.{name}"]
        assert (gradient - expected).norm() <= tolerance * expected.norm() + 1e-7, name
