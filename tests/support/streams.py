"""Streams for tests: one of a single pair, where the steps matter and the texts do not, and real ones cut small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from model_repo.encoding import PairEncoder
from training.config import PretrainConfig, RenderConfig
from training.corpus.document import QUERY, Document, Segment
from training.data.dataset import Dataset
from training.families import Family
from training.stages.pretrain import MixtureStream
from training.streams import Batch


class OnePair:
    """The same pair of five tokens for ever; its state counts the batches taken."""

    def __init__(self) -> None:
        self.taken = 0

    def next(self) -> Batch:
        self.taken += 1
        rows = {
            "input_ids": torch.tensor([[101, 7592, 102, 2088, 102]]),
            "segment_ids": torch.tensor([[0, 1, 0, 2, 0]]),
            "lengths": torch.tensor([5]),
        }
        return Batch(rows, 5)

    def state(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.taken = state["taken"]


def by_letters(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """An embedder without a model: texts with the same letters are close."""
    counts = np.array([[text.lower().count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def documents(dataset: Dataset, count: int, *, source: str) -> list[Document]:
    """The first items of a data set, each with a query made of its title."""
    made = []
    for item in list(dataset.items.values())[:count]:
        fields = [
            Segment(name, "".join(item.fields[name])[:60], item.item_id) for name in ("title", "category")
        ]
        made.append(Document(source, item.item_id, (*fields, Segment(QUERY, f"{fields[0].text} {source}"))))
    return made


def mixture(
    family: Family, dataset: Dataset, config: PretrainConfig, *, seed: int = 0
) -> tuple[MixtureStream, PairEncoder]:
    """A mixture of two small corpora, and the encoder that it renders with."""
    encoder = PairEncoder(family.spec(dataset, RenderConfig(max_tokens=96)), family.tokenizer)
    corpora = {name: documents(dataset, count, source=name) for name, count in (("dke", 23), ("rcd", 11))}
    items = dataset.item_fields()
    stream = MixtureStream(corpora, encoder, family, config, items=items, vectors=by_letters, seed=seed)
    return stream, encoder
