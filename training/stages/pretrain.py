"""Continual pre-training: the DKE, ICP and RCD corpora, mixed by weight, under masked language modelling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from model_repo.encoding import PairEncoder
from training.config import PretrainConfig
from training.corpus.dke import build_dke
from training.corpus.document import Builder, CorpusReport, Document
from training.corpus.icp import build_icp
from training.corpus.rcd import build_rcd
from training.data.dataset import Dataset
from training.loop import Batch
from training.models.embedding import Embedder
from training.models.encoder import RelevanceEncoder, to_tensors
from training.objectives.mlm import Row, mask_batch, tokenise_documents

Corpora = dict[str, list[Document]]


def build_corpora(
    dataset: Dataset, config: PretrainConfig, *, embed: Embedder, seed: int
) -> tuple[Corpora, CorpusReport]:
    """Run the builders whose weight is above zero; the report counts documents and drops by reason."""
    builders: dict[str, Callable[[], Builder]] = {
        "dke": lambda: build_dke(dataset, config.dke, seed=seed, duckdb=config.duckdb),
        "icp": lambda: build_icp(dataset, config.icp, embed=embed, seed=seed, duckdb=config.duckdb),
        "rcd": lambda: build_rcd(dataset, config.rcd, seed=seed),
    }
    report = CorpusReport()
    corpora = {
        name: list(report.documents(build()))
        for name, build in builders.items()
        if config.weights.get(name, 0) > 0
    }
    return {name: documents for name, documents in corpora.items() if documents}, report


def mixture_batches(
    corpora: Corpora, encoder: PairEncoder, config: PretrainConfig, *, vocab_size: int, seed: int
) -> Iterator[Batch]:
    """Endless masked batches; every batch comes from one corpus, drawn by weight, so lengths stay alike."""
    rng = np.random.default_rng(seed)
    streams = {
        name: _shuffled(tokenise_documents(documents, encoder, max_tokens=config.max_document_tokens), rng)
        for name, documents in corpora.items()
    }
    names = list(streams)
    weights = np.array([config.weights[name] for name in names], dtype=np.float64)
    while True:
        name = names[rng.choice(len(names), p=weights / weights.sum())]
        rows = _fill(streams[name], config.batch_tokens)
        arrays = mask_batch(
            rows, config.mlm, rng=rng, vocab_size=vocab_size, special_ids=encoder.spec.special_ids
        )
        yield Batch(to_tensors(arrays), int(arrays["lengths"].sum()))


def masked_lm_loss(model: RelevanceEncoder, batch: Mapping[str, Tensor]) -> Tensor:
    return model.masked_lm_loss(batch)


def _shuffled(documents: list[Row], rng: np.random.Generator) -> Iterator[Row]:
    while True:
        for index in rng.permutation(len(documents)):
            yield documents[int(index)]


def _fill(stream: Iterator[Row], batch_tokens: int) -> Sequence[Row]:
    """Take documents until the padded batch would pass `batch_tokens`."""
    rows: list[Row] = []
    longest = 0
    while True:
        row = next(stream)
        longest = max(longest, len(row))
        rows.append(row)
        if longest * (len(rows) + 1) > batch_tokens:
            return rows
