"""What the recipe is measured against, by name: two that need no training, two trained within the budget of SFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from training.baselines.cross_encoder import cross_encoder
from training.baselines.dssm import dssm
from training.config import ConfigError, RunConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.evaluation.bm25 import bm25_scores
from training.evaluation.cosine import cosine_scores
from training.evaluation.scores import SplitScores
from training.models.embedding import Embedder

PairScorer = Callable[[Sequence[LabelledPair]], npt.NDArray[np.float32]]
"""A score for each pair, in order; labels are not looked at."""
Baseline = Callable[[Dataset, RunConfig, Embedder], PairScorer]
"""Everything that happens once: reading statistics, or training on labels.train."""


def _bm25(dataset: Dataset, config: RunConfig, embed: Embedder) -> PairScorer:
    return lambda pairs: bm25_scores(dataset, pairs)


def _cosine(dataset: Dataset, config: RunConfig, embed: Embedder) -> PairScorer:
    return lambda pairs: cosine_scores(dataset, pairs, embed)


BASELINES: dict[str, Baseline] = {
    "bm25": _bm25,
    "minilm-cosine": _cosine,
    "dssm": dssm,
    "sbert-cross-encoder": cross_encoder,
    "sbert-cross-encoder-longer": cross_encoder,
}


def score_baseline(name: str, dataset: Dataset, config: RunConfig, embed: Embedder) -> SplitScores:
    """Dev and test as baseline `name` scores them; a trained one is trained first, from `config.seed`.

    Raises ConfigError naming the known baselines.
    """
    if name not in BASELINES:
        raise ConfigError(f"{name!r} is no baseline; there are {', '.join(BASELINES)}")
    score = BASELINES[name](dataset, config, embed)
    return SplitScores(score(dataset.labels("dev")), score(dataset.labels("test")))
