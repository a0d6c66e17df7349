"""Dev is scored on the way; the weights that did best there are kept, and patience ends the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from training.config import SftConfig
from training.data.dataset import LabelScale
from training.data.pairs import LabelledPair
from training.evaluation.predict import predict
from training.models.base import RelevanceModel
from training.rendering import PairSource


class EarlyStop:
    """A `Watch` for the loop: AUC on the first whole queries of dev, `evaluations` times a run.

    `history` holds (tokens, AUC).
    """

    def __init__(
        self, pairs: Sequence[LabelledPair], source: PairSource, scale: LabelScale, config: SftConfig
    ) -> None:
        chosen = _whole_queries(pairs, config.dev_pairs)
        self._encoded = source.encode(chosen)
        self._relevant = np.array([pair.label >= scale.relevant_from for pair in chosen])
        self._pad = source.encoder.spec.special_ids.pad
        self._config = config
        self._next = self._interval = config.optimiser.tokens / config.evaluations
        self._best: dict[str, Tensor] | None = None
        self._behind = 0
        self.history: list[tuple[int, float]] = []

    def __call__(self, model: RelevanceModel, tokens: int) -> bool:
        if tokens < self._next:
            return False
        self._next = (tokens // self._interval + 1) * self._interval
        auc = self._auc(model)
        if not self.history or auc > max(seen for _, seen in self.history):
            self._best = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
            self._behind = 0
        else:
            self._behind += 1
        self.history.append((tokens, auc))
        return self._behind >= self._config.patience

    def keep_best(self, model: RelevanceModel) -> None:
        """Put the best weights back."""
        if self._best is not None:
            model.load_state_dict(self._best)

    def state(self) -> dict[str, Any]:
        return {"next": self._next, "best": self._best, "behind": self._behind, "history": self.history}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._next, self._best, self._behind = state["next"], state["best"], state["behind"]
        self.history = state["history"]

    def _auc(self, model: RelevanceModel) -> float:
        scores = predict(model, self._encoded, pad_id=self._pad, title="dev")
        model.train()
        with torch.no_grad():
            return float(roc_auc_score(self._relevant, scores)) if 0 < self._relevant.mean() < 1 else 0.5


def _whole_queries(pairs: Sequence[LabelledPair], at_most: int) -> list[LabelledPair]:
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.query] = counts.get(pair.query, 0) + 1
    kept, room = set[str](), at_most
    for query, count in counts.items():
        if count > room and kept:
            break
        kept.add(query)
        room -= count
    return [pair for pair in pairs if pair.query in kept]
