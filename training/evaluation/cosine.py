"""Zero-shot cosine of an embedding model: what the start weights know before any training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.models.embedding import Embedder


def cosine_scores(
    dataset: Dataset, pairs: Sequence[LabelledPair], embed: Embedder
) -> npt.NDArray[np.float32]:
    """Cosine of query and item text (all fields) for each pair."""
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    items = list(dict.fromkeys(pair.item_id for pair in pairs))
    q = dict(zip(queries, embed(queries), strict=True))
    d = dict(zip(items, embed([dataset.item_text(item_id) for item_id in items]), strict=True))
    return np.array([q[pair.query] @ d[pair.item_id] for pair in pairs], dtype=np.float32)
