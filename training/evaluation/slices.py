"""Which test pairs belong to which slice of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.evaluation.metrics import query_index

STYLE = "style: "
"""Begins the name of every slice of one query style."""


def slice_masks(dataset: Dataset, pairs: Sequence[LabelledPair]) -> dict[str, npt.NDArray[np.bool_]]:
    """`slice` of queries.jsonl (seen or unseen intents), cold items, query length in words, query style.

    Empty slices are left out. Queries that queries.jsonl does not know are in no slice of intent or style.
    """
    info, cold = dataset.query_info(), dataset.cold_items()
    known = [info.get(pair.query) for pair in pairs]
    words = np.array([len(pair.query.split()) for pair in pairs])
    masks = {
        name: np.array([entry is not None and entry.slice == name for entry in known])
        for name in sorted({entry.slice for entry in known if entry})
    }
    masks["cold items"] = np.array([pair.item_id in cold for pair in pairs])
    masks |= {"1-2 words": words <= 2, "3-5 words": (words > 2) & (words <= 5), "6+ words": words > 5}
    for style in sorted({entry.style for entry in known if entry}):
        masks[STYLE + style] = np.array([entry is not None and entry.style == style for entry in known])
    return {name: mask for name, mask in masks.items() if mask.any()}


def slice_sizes(
    pairs: Sequence[LabelledPair], masks: Mapping[str, npt.NDArray[np.bool_]]
) -> dict[str, dict[str, int]]:
    """Pairs and queries of each slice: how far its numbers can be trusted."""
    query = query_index(pairs)
    return {
        name: {"pairs": int(mask.sum()), "queries": len(np.unique(query[mask]))}
        for name, mask in masks.items()
    }
