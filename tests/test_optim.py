"""Optimiser groups and the poly schedule."""

from __future__ import annotations

import pytest
import torch

from tag2mask.config import OptimConfig, TrainConfig
from tag2mask.training.optim import build_optimizer, learning_rates, set_learning_rates


class Grouped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.old = torch.nn.Linear(2, 2)
        self.new = torch.nn.Linear(2, 2)

    def parameter_groups(self):
        return {
            "old_weights": [self.old.weight],
            "old_biases": [self.old.bias],
            "new_weights": [self.new.weight],
            "new_biases": [self.new.bias],
        }


def test_poly_schedule_by_hand():
    config = TrainConfig(tag_steps=100, joint_steps=50, optim=OptimConfig(lr=0.01, joint_lr=0.002))
    assert learning_rates(config, 0) == pytest.approx(
        {"old_weights": 0.01, "old_biases": 0.02, "new_weights": 0.1, "new_biases": 0.2}
    )
    assert learning_rates(config, 25)["old_weights"] == pytest.approx(0.01 * 0.75**0.9)
    assert learning_rates(config, 99)["old_weights"] == pytest.approx(0.01 * 0.01**0.9)
    assert learning_rates(config, 100)["new_weights"] == pytest.approx(0.02)
    assert learning_rates(config, 149)["old_weights"] == pytest.approx(0.002 * 0.02**0.9)


def test_published_loss_of_multipliers_in_the_joint_phase():
    config = TrainConfig(tag_steps=10, joint_steps=10, optim=OptimConfig(joint_lr=0.0007, joint_multipliers=False))
    assert set(learning_rates(config, 10).values()) == {0.0007}
    assert learning_rates(config, 0)["new_biases"] == pytest.approx(0.2)


def test_warmup_rises_and_ends():
    config = TrainConfig(tag_steps=100, joint_steps=1, optim=OptimConfig(lr=1.0, warmup=4, poly_power=0.0))
    rates = [learning_rates(config, t)["old_weights"] for t in range(6)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_groups_decay_and_momentum(name, kind):
    optimizer = build_optimizer(Grouped(), OptimConfig(name=name, lr=0.1, momentum=0.8, weight_decay=0.01))
    assert type(optimizer) is kind
    groups = {g["name"]: g for g in optimizer.param_groups}
    assert {n: g["weight_decay"] for n, g in groups.items()} == {
        "old_weights": 0.01,
        "old_biases": 0.0,
        "new_weights": 0.01,
        "new_biases": 0.0,
    }
    # the published code hands its weight decay to SGD as momentum; here momentum is what it says
    assert all((g["momentum"] if name == "sgd" else g["betas"][0]) == 0.8 for g in groups.values())
    set_learning_rates(optimizer, {"old_weights": 1.0, "old_biases": 2.0, "new_weights": 3.0, "new_biases": 4.0})
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 2.0, 3.0, 4.0]
