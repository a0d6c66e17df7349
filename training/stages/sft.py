"""Supervised fine-tuning: labelled pairs to one relevance logit."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.config import SftConfig
from training.data.dataset import LabelScale
from training.data.pairs import LabelledPair
from training.loop import LossFn
from training.models.base import RelevanceModel, to_tensors
from training.objectives.ranking import listwise_loss, margin_loss
from training.rendering import PairSource
from training.streams import Batch, Cursor


def graded_target(label: int, scale: LabelScale) -> float:
    """Map a grade to a probability: below `relevant_from` under 0.5, from there on above (ours).

    Equal steps on either side; binary labels give 0 and 1. On 0..3, relevant from 2: 0, 0.25, 0.75, 1.
    """
    low, high = scale.scale
    if label < scale.relevant_from:
        return 0.5 * (label - low) / (scale.relevant_from - low)
    return 1.0 - 0.5 * (high - label) / (high - scale.relevant_from + 1)


def share_of_queries(pairs: Sequence[LabelledPair], share: float, *, seed: int) -> list[LabelledPair]:
    """All pairs of a random `share` of the queries, at least two; a larger share holds every smaller one."""
    queries = sorted({pair.query for pair in pairs})
    random.Random(seed).shuffle(queries)
    kept = set(queries[: max(2, round(share * len(queries)))])
    return [pair for pair in pairs if pair.query in kept]


class QueryStream:
    """Endless batches of a few queries with several items each, a new shuffle every epoch.

    `groups` numbers the query of each row; `gains` is 2^grade - 1 as in nDCG.
    """

    def __init__(
        self,
        pairs: Sequence[LabelledPair],
        source: PairSource,
        scale: LabelScale,
        config: SftConfig,
        *,
        seed: int,
    ) -> None:
        by_query: dict[str, list[LabelledPair]] = {}
        for pair in share_of_queries(pairs, config.label_share, seed=seed):
            by_query.setdefault(pair.query, []).append(pair)
        self._queries = list(by_query.values())
        self._source, self._scale, self._config, self._seed = source, scale, config, seed
        self._cursor = Cursor(len(self._queries), seed=seed, name="queries")
        self._step = 0

    def next(self) -> Batch:
        rng = random.Random(f"{self._seed} {self._step}")
        self._step += 1
        rows = []
        for group in range(min(self._config.queries_per_batch, len(self._queries))):
            pairs = self._queries[self._cursor.take()]
            rows += [
                (group, pair) for pair in rng.sample(pairs, min(self._config.items_per_query, len(pairs)))
            ]
        return self._batch(rows)

    def state(self) -> dict[str, Any]:
        return {"step": self._step, "cursor": self._cursor.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        self._cursor.restore(state["cursor"])

    def _batch(self, rows: Sequence[tuple[int, LabelledPair]]) -> Batch:
        scale = self._scale
        pairs = self._source.encode([pair for _, pair in rows])
        inputs = to_tensors(pairs.collate(pad_id=self._source.encoder.spec.special_ids.pad))
        labels = [pair.label for _, pair in rows]
        relevant = [label >= scale.relevant_from for label in labels]
        graded = [graded_target(label, scale) for label in labels]
        inputs["targets"] = torch.tensor(
            graded if self._config.targets == "graded" else list(map(float, relevant))
        )
        inputs["weights"] = torch.tensor([self._config.positive_weight if hit else 1.0 for hit in relevant])
        inputs["gains"] = torch.tensor([2.0 ** (label - scale.scale[0]) - 1.0 for label in labels])
        inputs["groups"] = torch.tensor([group for group, _ in rows])
        return Batch(inputs, int(np.sum(pairs.lengths)))


def relevance_loss(config: SftConfig) -> LossFn:
    """Weighted cross-entropy on the targets, plus the listwise and the margin loss by their factors."""

    def loss(model: RelevanceModel, batch: Batch) -> Tensor:
        inputs = batch.inputs
        logits_B = model(inputs)
        total = functional.binary_cross_entropy_with_logits(
            logits_B, inputs["targets"], weight=inputs["weights"]
        )
        if config.listwise_weight:
            total = total + config.listwise_weight * listwise_loss(
                logits_B, inputs["gains"], inputs["groups"]
            )
        if config.margin_weight:
            hinge = margin_loss(logits_B, inputs["gains"], inputs["groups"], config.margin)
            total = total + config.margin_weight * hinge
        return total

    return loss
