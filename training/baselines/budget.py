"""What a trained baseline may see: the labelled pairs of SFT, their targets, and as many tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.stages.sft import graded_target, share_of_queries

IntArray = npt.NDArray[np.int64]


def training_pairs(dataset: Dataset, config: RunConfig) -> list[LabelledPair]:
    """The pairs of labels.train that SFT uses, by the same draw of queries."""
    return share_of_queries(dataset.labels("train"), config.sft.label_share, seed=config.seed)


def targets(pairs: Sequence[LabelledPair], dataset: Dataset, config: RunConfig) -> npt.NDArray[np.float32]:
    """What a logit is to say of each pair, in 0..1, graded or binary as SFT has it."""
    scale = dataset.card.labels
    if config.sft.targets == "graded":
        return np.array([graded_target(pair.label, scale) for pair in pairs], dtype=np.float32)
    return np.array([pair.label >= scale.relevant_from for pair in pairs], dtype=np.float32)


def rows_within_budget(lengths: IntArray, tokens: int, *, seed: int) -> IntArray:
    """Row numbers in a new shuffle every epoch, as many as `tokens` pay for and at least one.

    `lengths`: tokens of each row.
    """
    rng = np.random.default_rng(seed)
    epochs = tokens // int(lengths.sum()) + 1
    order = np.concatenate([rng.permutation(len(lengths)) for _ in range(epochs)])
    return order[: max(1, int(np.searchsorted(np.cumsum(lengths[order]), tokens, side="right")))]
