"""Losses over the items of one query. `groups` numbers the query of each row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def listwise_loss(logits_B: Tensor, gains_B: Tensor, groups_B: Tensor) -> Tensor:
    """ListNet (Cao et al. 2007): cross-entropy between gain share and softmax of the logits.

    Mean over the queries with any gain; zero where there is none.
    """
    member_GB = _members(groups_B)
    scores_GB = logits_B[None, :].masked_fill(~member_GB, -torch.inf)
    log_p_GB = functional.log_softmax(scores_GB, dim=1).masked_fill(~member_GB, 0.0)
    gains_GB = gains_B * member_GB
    total_G = gains_GB.sum(1)
    losses_G = -(gains_GB * log_p_GB).sum(1) / total_G.clamp(min=1e-9)
    useful = total_G > 0
    return losses_G[useful].mean() if bool(useful.any()) else logits_B.sum() * 0.0


def margin_loss(logits_B: Tensor, gains_B: Tensor, groups_B: Tensor, margin: float) -> Tensor:
    """Hinge on every two items of a query with different grades: the better one leads by `margin` logits."""
    better = (groups_B[:, None] == groups_B[None, :]) & (gains_B[:, None] > gains_B[None, :])
    if not bool(better.any()):
        return logits_B.sum() * 0.0
    return functional.relu(margin - (logits_B[:, None] - logits_B[None, :])[better]).mean()


def _members(groups_B: Tensor) -> Tensor:
    """[G, B], true where row b belongs to query g."""
    return groups_B[None, :] == torch.arange(int(groups_B.max()) + 1, device=groups_B.device)[:, None]
