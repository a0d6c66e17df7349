"""Which test pairs belong to which slice of the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from training.data.dataset import Dataset
from training.data.pairs import LabelledPair


def slice_masks(dataset: Dataset, pairs: Sequence[LabelledPair]) -> dict[str, npt.NDArray[np.bool_]]:
    """Slices of queries.jsonl, cold items and query length in words; empty slices are left out."""
    info = dataset.query_info()
    cold = dataset.cold_items()
    names: dict[str, list[bool]] = {}
    words = np.array([len(pair.query.split()) for pair in pairs])
    for label in sorted({entry.slice for entry in info.values()}):
        names[label] = [pair.query in info and info[pair.query].slice == label for pair in pairs]
    masks = {name: np.array(mask) for name, mask in names.items()}
    masks["cold items"] = np.array([pair.item_id in cold for pair in pairs])
    masks |= {"1-2 words": words <= 2, "3-5 words": (words > 2) & (words <= 5), "6+ words": words > 5}
    return {name: mask for name, mask in masks.items() if mask.any()}
