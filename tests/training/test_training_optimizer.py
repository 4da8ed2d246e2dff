from __future__ import annotations

import pytest
import torch
from torch import nn

from ai_detect.errors import CheckpointError
from ai_detect.training.optimizer import AdamW


def model() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))


def backward(net: nn.Module, step: int) -> None:
    torch.manual_seed(100 + step)
    net(torch.randn(8, 4)).square().mean().backward()


def test_equals_torchs_own() -> None:
    ours, theirs = model(), model()
    optimizer = AdamW(ours, 0.1)
    matrices = [p for p in theirs.parameters() if p.ndim >= 2]
    vectors = [p for p in theirs.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, foreach=False)
    for step in range(30):
        rate = 0.01 * (step + 1) / 30
        for group in reference.param_groups:
            group["lr"] = rate
        backward(ours, step)
        backward(theirs, step)
        optimizer.step(rate)
        reference.step()
        optimizer.zero_grad()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_a_loaded_state_goes_on_bit_for_bit_and_shares_nothing() -> None:
    straight, first = model(), model()
    a, b = AdamW(straight, 0.01), AdamW(first, 0.01)
    for step in range(4):
        for net, optimizer in ((straight, a), (first, b)):
            optimizer.zero_grad()
            backward(net, step)
            optimizer.step(0.01)
    saved = b.state()
    second = model()
    second.load_state_dict(first.state_dict())
    c = AdamW(second, 0.01)
    c.load(saved, "here")
    for net, optimizer in ((straight, a), (second, c)):
        optimizer.zero_grad()
        backward(net, 4)
        optimizer.step(0.01)
    assert all(torch.equal(x, y) for x, y in zip(straight.parameters(), second.parameters(), strict=True))
    assert int(saved["0.weight"]["step"]) == 4 and int(c.state()["0.weight"]["step"]) == 5


def test_a_parameter_without_a_gradient_stays_and_has_no_state() -> None:
    net = model()
    net[3].weight.requires_grad_(False)
    before = net[0].weight.clone()
    optimizer = AdamW(net, 0.5)
    optimizer.step(0.1)
    assert torch.equal(before, net[0].weight) and optimizer.state() == {}


def test_a_state_that_does_not_fit_is_refused() -> None:
    net = model()
    optimizer = AdamW(net, 0.0)
    backward(net, 0)
    optimizer.step(0.1)
    good = optimizer.state()
    wrong = [
        ({"9.weight": good["0.weight"]}, r"unknown parameters: 9\.weight"),
        ({"0.weight": {"exp_avg": good["0.weight"]["exp_avg"]}}, "not AdamW's"),
        ({"0.weight": good["3.weight"]}, r"exp_avg of 0\.weight has shape \(2, 6\).*expected \(6, 4\)"),
        ({"0.weight": {**good["0.weight"], "step": torch.ones(2)}}, r"step of 0\.weight"),
        ({"0.weight": {**good["0.weight"], "step": torch.tensor(-1)}}, r"0\.weight has step -1"),
        ({"0.weight": {**good["0.weight"], "step": torch.tensor((1 << 63) - 1)}}, r"0\.weight has step 9223372"),
        ({"0.weight": {**good["0.weight"], "exp_avg_sq": -good["0.weight"]["exp_avg_sq"]}}, "negative exp_avg_sq"),
    ]
    for state, message in wrong:
        with pytest.raises(CheckpointError, match=message):
            AdamW(model(), 0.0).load(state, "checkpoint-1")
