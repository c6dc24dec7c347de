import pytest
import torch

from gare_cache.errors import ConfigError
from gare_cache.losses.custom_loss import build_custom_loss
from gare_cache.settings import CustomSettings

MODULE = "tests.own_modules"
SIMILARITY = torch.eye(3).requires_grad_()


def test_a_loss_gets_similarity_scale_positives_and_its_options() -> None:
    loss = build_custom_loss(
        CustomSettings(name=f"{MODULE}:diagonal_loss", options={"weight": 2.0})
    )
    assert float(loss(SIMILARITY, torch.tensor(5.0)).detach()) == -10
    positives = torch.eye(3, dtype=torch.bool)
    assert float(loss(SIMILARITY, 5.0, positives=positives).detach()) == -10


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss_a_pair", r"returned a tensor of shape \(3,\); it must be a scalar"),
        ("loss_as_number", r"returned a float; it must return a tensor"),
        ("loss_without_gradient", r"does not depend on the similarity"),
    ],
)
def test_what_it_returns_is_checked(name: str, message: str) -> None:
    loss = build_custom_loss(CustomSettings(name=f"{MODULE}:{name}", options={}))
    with pytest.raises(ConfigError, match=message):
        loss(SIMILARITY, 1.0)


def test_signatures_are_checked_before_training() -> None:
    with pytest.raises(ConfigError, match=r"called as \(similarity, scale, positives=...\)"):
        build_custom_loss(CustomSettings(name=f"{MODULE}:loss_without_positives", options={}))
    with pytest.raises(ConfigError, match=r"unexpected keyword argument 'margin'"):
        build_custom_loss(CustomSettings(name=f"{MODULE}:diagonal_loss", options={"margin": 1}))


def test_an_error_in_it_is_named_with_its_place() -> None:
    loss = build_custom_loss(CustomSettings(name=f"{MODULE}:raising_loss", options={"what": 1}))
    with pytest.raises(
        ConfigError, match=r"raising_loss' fails at .*:\d+ with IndexError: index 4"
    ):
        loss(SIMILARITY, 1.0)
