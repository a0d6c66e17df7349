"""Supervised fine-tuning: labelled pairs to one relevance logit."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.config import SftConfig
from training.data.dataset import LabelScale
from training.data.pairs import LabelledPair
from training.loop import Batch, LossFn
from training.models.encoder import RelevanceEncoder, to_tensors
from training.rendering import PairSource


def graded_target(label: int, scale: LabelScale) -> float:
    """Map a grade to a probability: below `relevant_from` under 0.5, from there on above (ours).

    Equal steps on either side; binary labels give 0 and 1. On 0..3, relevant from 2: 0, 0.25, 0.75, 1.
    """
    low, high = scale.scale
    if label < scale.relevant_from:
        return 0.5 * (label - low) / (scale.relevant_from - low)
    return 1.0 - 0.5 * (high - label) / (high - scale.relevant_from + 1)


def query_batches(
    pairs: Sequence[LabelledPair], source: PairSource, scale: LabelScale, config: SftConfig, *, seed: int
) -> Iterator[Batch]:
    """Endless batches of a few queries with several items each, a new shuffle every epoch.

    `groups` numbers the query of each row; `gains` is 2^grade - 1 as in nDCG.
    """
    rng = random.Random(seed)
    by_query: dict[str, list[LabelledPair]] = {}
    for pair in pairs:
        by_query.setdefault(pair.query, []).append(pair)
    queries = list(by_query)
    while True:
        rng.shuffle(queries)
        for start in range(0, len(queries), config.queries_per_batch):
            chosen = queries[start : start + config.queries_per_batch]
            rows = [
                (group, pair)
                for group, query in enumerate(chosen)
                for pair in rng.sample(by_query[query], min(config.items_per_query, len(by_query[query])))
            ]
            yield _batch(rows, source, scale)


def _batch(rows: Sequence[tuple[int, LabelledPair]], source: PairSource, scale: LabelScale) -> Batch:
    pairs = source.encode([pair for _, pair in rows])
    inputs = to_tensors(pairs.collate(pad_id=source.encoder.spec.special_ids.pad))
    labels = [pair.label for _, pair in rows]
    inputs["targets"] = torch.tensor([graded_target(label, scale) for label in labels])
    inputs["gains"] = torch.tensor([2.0 ** (label - scale.scale[0]) - 1.0 for label in labels])
    inputs["groups"] = torch.tensor([group for group, _ in rows])
    return Batch(inputs, int(np.sum(pairs.lengths)))


def relevance_loss(listwise_weight: float) -> LossFn:
    """Cross-entropy on graded targets plus `listwise_weight` times ListNet (Cao et al. 2007) on gains."""

    def loss(model: RelevanceEncoder, batch: Mapping[str, Tensor]) -> Tensor:
        logits_B = model(batch)
        pointwise = functional.binary_cross_entropy_with_logits(logits_B, batch["targets"])
        return pointwise + listwise_weight * _listwise(logits_B, batch["gains"], batch["groups"])

    return loss


def _listwise(logits_B: Tensor, gains_B: Tensor, groups_B: Tensor) -> Tensor:
    """Mean over queries with any gain of the cross-entropy between gain share and softmax of the logits."""
    member_GB = groups_B[None, :] == torch.arange(int(groups_B.max()) + 1, device=groups_B.device)[:, None]
    scores_GB = logits_B[None, :].masked_fill(~member_GB, -torch.inf)
    log_p_GB = functional.log_softmax(scores_GB, dim=1).masked_fill(~member_GB, 0.0)
    gains_GB = gains_B * member_GB
    total_G = gains_GB.sum(1)
    losses_G = -(gains_GB * log_p_GB).sum(1) / total_G.clamp(min=1e-9)
    useful = total_G > 0
    return losses_G[useful].mean() if bool(useful.any()) else logits_B.sum() * 0.0
