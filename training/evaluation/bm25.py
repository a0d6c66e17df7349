"""BM25 over all item fields: the baseline that every search engine has."""

from __future__ import annotations

import re
from collections.abc import Sequence

import bm25s
import numpy as np
import numpy.typing as npt

from training.data.dataset import Dataset
from training.data.pairs import LabelledPair

_WORD = re.compile(r"\w+")


def bm25_scores(dataset: Dataset, pairs: Sequence[LabelledPair]) -> npt.NDArray[np.float32]:
    """Lucene's BM25 (k1 1.5, b 0.75) of each pair; statistics over all items, words lower-cased, no stemming."""
    ids = {item_id: row for row, item_id in enumerate(dataset.items)}
    retriever = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    retriever.index([_words(dataset.item_text(item_id)) for item_id in ids], show_progress=False)
    known = retriever.vocab_dict
    scores = np.empty(len(pairs), dtype=np.float32)
    rows: dict[str, list[int]] = {}
    for row, pair in enumerate(pairs):
        rows.setdefault(pair.query, []).append(row)
    for query, members in rows.items():
        words = [word for word in _words(query) if word in known]
        by_item = retriever.get_scores(words) if words else np.zeros(len(ids), dtype=np.float32)
        scores[members] = by_item[[ids[pairs[row].item_id] for row in members]]
    return scores


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
