"""The losses over the items of a query, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.objectives.ranking import listwise_loss, margin_loss


def listnet(logits: np.ndarray, gains: np.ndarray, groups: np.ndarray) -> float:
    losses = []
    for group in np.unique(groups):
        z, gain = logits[groups == group], gains[groups == group]
        if gain.sum() > 0:
            losses.append(-(gain / gain.sum() * (z - np.log(np.exp(z).sum()))).sum())
    return float(np.mean(losses)) if losses else 0.0


def hinge(logits: np.ndarray, gains: np.ndarray, groups: np.ndarray, margin: float) -> float:
    losses = [
        max(0.0, margin - (logits[a] - logits[b]))
        for a in range(len(logits))
        for b in range(len(logits))
        if groups[a] == groups[b] and gains[a] > gains[b]
    ]
    return float(np.mean(losses)) if losses else 0.0


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 5, 24)
    return rng.normal(0, 2, 24), rng.choice([0.0, 0.0, 1.0, 3.0, 7.0], 24), groups


def tensors(case: tuple[np.ndarray, ...]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in case]


@pytest.mark.parametrize("seed", range(5))
def test_the_listwise_loss_is_listnet_averaged_over_queries(seed: int) -> None:
    case = random_case(seed)
    assert float(listwise_loss(*tensors(case))) == pytest.approx(listnet(*case))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.5, 2.0])
def test_the_margin_loss_is_the_mean_hinge_over_unequal_pairs(seed: int, margin: float) -> None:
    case = random_case(seed)
    assert float(margin_loss(*tensors(case), margin)) == pytest.approx(hinge(*case, margin))


def test_a_query_without_any_gain_does_not_dilute_the_mean() -> None:
    logits, gains, groups = (
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([1.0, 0.0, 0.0]),
        torch.tensor([0, 0, 1]),
    )
    alone = listwise_loss(logits[:2], gains[:2], groups[:2])
    assert torch.equal(listwise_loss(logits, gains, groups), alone)
    assert float(alone) == pytest.approx(np.log(1 + np.exp(1.0)))


def test_without_anything_to_rank_losses_and_gradients_are_zero() -> None:
    logits = torch.tensor([1.0, -2.0], requires_grad=True)
    groups = torch.zeros(2, dtype=torch.long)
    total = listwise_loss(logits, torch.zeros(2), groups) + margin_loss(logits, torch.ones(2), groups, 1.0)
    total.backward()
    assert float(total) == 0.0
    assert logits.grad is not None
    assert logits.grad.tolist() == [0.0, 0.0]


def test_a_lead_beyond_the_margin_costs_nothing() -> None:
    gains, groups = torch.tensor([1.0, 0.0]), torch.zeros(2, dtype=torch.long)
    assert float(margin_loss(torch.tensor([2.5, 1.0]), gains, groups, 1.0)) == 0.0
    assert float(margin_loss(torch.tensor([1.0, 2.5]), gains, groups, 1.0)) == 2.5


def test_both_losses_push_the_better_item_up() -> None:
    gains, groups = torch.tensor([0.0, 3.0]), torch.zeros(2, dtype=torch.long)
    for loss in (listwise_loss, lambda *a: margin_loss(*a, 1.0)):
        logits = torch.zeros(2, requires_grad=True)
        loss(logits, gains, groups).backward()
        assert logits.grad is not None
        assert logits.grad[1] < 0 < logits.grad[0]
