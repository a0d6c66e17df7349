"""DSSM (Huang et al. 2013): letter trigrams, a tower for queries and one for items, cosine; from scratch.

Shape suffixes: B pairs, D dimensions.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_repo.encoding import PairEncoder
from model_repo.text import canonical_text
from training.baselines.budget import IntArray, rows_within_budget, targets, training_pairs
from training.config import RunConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.families import open_family
from training.models.embedding import Embedder
from training.rendering import PairSource

# The paper: some 30 thousand trigrams, layers of 300, 300 and 128, tanh, and 10 times the cosine as logit.
_BUCKETS, _HIDDEN, _SIZE, _SCALE = 2**15, 300, 128, 10.0
# Ours: Adagrad, because a trigram is seen rarely, at the rate that does best on dev of the sample set.
_BATCH, _LEARNING_RATE = 16, 0.002
_WORD = re.compile(r"\w+")


def dssm(
    dataset: Dataset, config: RunConfig, embed: Embedder
) -> Callable[[Sequence[LabelledPair]], npt.NDArray[np.float32]]:
    """Train two towers on labels.train; return what gives the logit of each pair.

    The labels are grades of pairs rather than clicks, so the loss is the cross-entropy of each pair instead of
    a softmax over one clicked item and random ones. The budget counts the tokens of the rendered pairs, as SFT's.
    """
    torch.manual_seed(config.seed)
    model, bags = Dssm(), Bags(dataset)
    pairs = training_pairs(dataset, config)
    wanted = torch.from_numpy(targets(pairs, dataset, config))
    rows = rows_within_budget(
        _rendered_lengths(dataset, pairs, config), config.sft.optimiser.tokens, seed=config.seed
    )
    optimiser = torch.optim.Adagrad(model.parameters(), lr=_LEARNING_RATE)
    # Said aloud, or torch warns that it does not check sparse gradients.
    with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            optimiser.param_groups[0]["lr"] = _LEARNING_RATE * (1 - start / len(rows))
            logits_B = model(*bags.of([pairs[row] for row in chosen]))
            loss = functional.binary_cross_entropy_with_logits(logits_B, wanted[chosen])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    @torch.inference_mode()
    def score(pairs: Sequence[LabelledPair]) -> npt.NDArray[np.float32]:
        parts = [model(*bags.of(pairs[start : start + 1024])).numpy() for start in range(0, len(pairs), 1024)]
        return np.concatenate(parts).astype(np.float32)

    return score


def trigrams(text: str) -> IntArray:
    """Buckets of the letter trigrams of `text`: "cat" has #ca, cat and at#. A text without words has bucket 0."""
    words = [f"#{word}#" for word in _WORD.findall(text.lower())]
    found = [word[start : start + 3] for word in words for start in range(len(word) - 2)]
    return np.array([zlib.crc32(gram.encode()) % _BUCKETS for gram in found] or [0], dtype=np.int64)


class Bags:
    """Trigram bags of the queries and items of one data set, each hashed once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._queries: dict[str, IntArray] = {}
        self._items: dict[str, IntArray] = {}

    def of(self, pairs: Sequence[LabelledPair]) -> tuple[list[IntArray], list[IntArray]]:
        """The bags of queries and of items, one of each for every pair."""
        for query, item_id, _ in pairs:
            if query not in self._queries:
                self._queries[query] = trigrams(canonical_text(query))
            if item_id not in self._items:
                self._items[item_id] = trigrams(self._dataset.item_text(item_id))
        return [self._queries[pair.query] for pair in pairs], [self._items[pair.item_id] for pair in pairs]


class Dssm(nn.Module):
    """logit = 10 x cos(query tower, item tower) + bias. Both towers start alike: shared trigrams mean something."""

    def __init__(self) -> None:
        super().__init__()
        self.query = _Tower()
        self.item = deepcopy(self.query)
        self.bias = nn.Parameter(torch.tensor(-_SCALE / 2))

    def forward(self, queries: Sequence[IntArray], items: Sequence[IntArray]) -> Tensor:
        cosine_B = (self.query(queries) * self.item(items)).sum(-1)
        logits_B: Tensor = _SCALE * cosine_B + self.bias
        return logits_B


class _Tower(nn.Module):
    """Bags -> unit vectors [B, D]. The first layer of the paper, a matrix times trigram counts, is a sum of rows."""

    def __init__(self) -> None:
        super().__init__()
        rows = 0.5 * torch.randn(_BUCKETS, _HIDDEN)
        self.first = nn.EmbeddingBag.from_pretrained(rows, freeze=False, mode="sum", sparse=True)
        self.second, self.third = nn.Linear(_HIDDEN, _HIDDEN), nn.Linear(_HIDDEN, _SIZE)

    def forward(self, bags: Sequence[IntArray]) -> Tensor:
        lengths = np.array([len(bag) for bag in bags])
        # Divided by the root of the length, or a long item saturates every tanh.
        weights = np.repeat(1 / np.sqrt(lengths), lengths).astype(np.float32)
        sum_BD = self.first(
            torch.from_numpy(np.concatenate(bags)),
            torch.from_numpy(np.cumsum(lengths) - lengths),
            per_sample_weights=torch.from_numpy(weights),
        )
        hidden_BD = torch.tanh(self.second(torch.tanh(sum_BD)))
        return functional.normalize(torch.tanh(self.third(hidden_BD)), dim=-1)


def _rendered_lengths(dataset: Dataset, pairs: Sequence[LabelledPair], config: RunConfig) -> IntArray:
    family = open_family(config)
    source = PairSource(dataset, PairEncoder(family.spec(dataset, config.render), family.tokenizer))
    return source.encode(pairs).lengths
