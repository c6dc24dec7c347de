import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from gare_cache.errors import ConfigError
from gare_cache.heads.retrieval import build_head
from gare_cache.losses.objective import Objective
from gare_cache.settings import parse_settings
from gare_cache.training.optimizers import (
    OPTIMIZERS,
    BertAdam,
    build_optimizer,
    set_learning_rate,
    warmup_cosine,
)
from gare_cache.training.settings import TrainSettings


def test_bert_adam_follows_the_reference(fixtures_dir: Path) -> None:
    reference = np.load(fixtures_dir / "gare" / "bert_adam.npz")
    parameters = {name: nn.Parameter(torch.from_numpy(reference[f"{name}0"])) for name in "pq"}
    groups = [
        {
            "params": [parameters[name]],
            "base_lr": float(reference[f"lr_{name}"]),
            "weight_decay": float(reference[f"weight_decay_{name}"]),
        }
        for name in "pq"
    ]
    optimizer = BertAdam(
        groups,
        betas=(float(reference["beta1"]), float(reference["beta2"])),
        eps=float(reference["eps"]),
        max_grad_norm=float(reference["max_grad_norm"]),
    )
    total, warmup = int(reference["t_total"]), float(reference["warmup"])
    for step in range(30):
        for name, parameter in parameters.items():
            parameter.grad = torch.from_numpy(reference[f"grad_{name}"][step])
        set_learning_rate(optimizer, warmup_cosine(step, total, warmup=warmup))
        optimizer.step()
        for name, parameter in parameters.items():
            np.testing.assert_allclose(
                parameter.detach().numpy(), reference[name][step], rtol=1e-6, atol=1e-7
            )


def test_the_schedule() -> None:
    factors = [warmup_cosine(step, 100, warmup=0.1) for step in range(100)]
    assert factors[0] == 0
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)))
    assert factors[50] == pytest.approx(0.5)
    assert factors[99] < 0.001
    assert warmup_cosine(0, 100, warmup=0) == 1


def settings(optimizer: str, rule: str) -> TrainSettings:
    rates = {"learning_rate": 0.1, "logit_scale_learning_rate": 0.2}
    others = {"optimizer": optimizer, "weight_decay": 0.3, "weight_decay_on": rule}
    return parse_settings(TrainSettings, {**rates, **others}, section="train")


def groups_by_name(rule: str) -> dict[str, tuple[float, float]]:
    head = build_head(dim=64, max_frames=4, projection="linear", gap={})
    optimizer = build_optimizer(head, Objective(), settings("adamw", rule))
    names = {id(parameter): name for name, parameter in head.named_parameters()}
    return {
        names[id(parameter)]: (group["base_lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_parameter_groups() -> None:
    default, reference = groups_by_name("weights"), groups_by_name("all_but_bias")
    head = build_head(dim=64, max_frames=4, projection="linear", gap={})
    assert set(default) == set(reference) == {name for name, _ in head.named_parameters()}
    for name, parameter in head.named_parameters():
        if name == "logit_scale":
            assert default[name] == reference[name] == (0.2, 0.0)
            continue
        assert default[name] == (0.1, 0.3 if parameter.ndim > 1 else 0.0), name
        assert reference[name] == (0.1, 0.0 if "bias" in name else 0.3), name
    norms = [name for name in default if default[name] != reference[name]]
    assert norms
    assert all("weight" in name for name in norms)


def test_a_learned_radius_is_never_decayed() -> None:
    head = build_head(dim=64, max_frames=4, aggregator={"name": "mean"}, gap=None)
    objective = Objective(trust_region={"weight": 1.0, "learned": True})
    optimizer = build_optimizer(head, objective, settings("bert_adam", "all_but_bias"))
    scale, radius = optimizer.param_groups
    assert scale["params"] == [head.logit_scale]
    assert radius["params"] == [objective.log_radius]
    assert (radius["base_lr"], radius["weight_decay"]) == (0.1, 0.0)


def test_the_names_are_those_of_the_settings() -> None:
    names = get_args(TrainSettings.model_fields["optimizer"].annotation)
    assert set(names) == OPTIMIZERS.keys()
    with pytest.raises(
        ConfigError, match=r"train.optimizer is 'adam': input should be 'bert_adam'"
    ):
        settings("adam", "weights")
    with pytest.raises(ConfigError, match=r"train.weight_decay_on is 'all': input should be"):
        settings("adamw", "all")
