"""Continual pre-training: the DKE, ICP and RCD corpora, mixed by weight, read by several objectives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from model_repo.encoding import PairEncoder
from training.config import PretrainConfig
from training.corpus.dke import build_dke
from training.corpus.document import Builder, CorpusReport, Document
from training.corpus.icp import build_icp
from training.corpus.rcd import build_rcd
from training.data.dataset import Dataset
from training.data.problems import DataError
from training.families import Family
from training.loop import LossFn
from training.models.base import RelevanceModel, to_tensors
from training.models.embedding import Embedder, ItemVectors
from training.objectives.matching import Items, MatchPool, contrast_loss, joint_loss
from training.objectives.rows import IntArray, Row
from training.streams import Batch, Packer

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


class MixtureStream:
    """Endless batches; each comes from one corpus and is read by one objective, both drawn by weight."""

    def __init__(
        self,
        corpora: Corpora,
        encoder: PairEncoder,
        family: Family,
        config: PretrainConfig,
        *,
        items: Items,
        vectors: ItemVectors | None,
        seed: int,
    ) -> None:
        """`vectors` None: no near negatives. Raises DataError when no corpus can feed an objective."""
        self._encoder, self._family, self._config, self._seed = encoder, family, config, seed
        self._step = 0
        wanted = {name for name, weight in config.objectives.items() if weight > 0}
        self._rows: dict[str, list[Row]] = {}
        self._pools: dict[str, MatchPool] = {}
        for name, documents in corpora.items():
            if "language" in wanted:
                self._rows[name] = family.rows(documents, encoder, max_tokens=config.max_document_tokens)
            if wanted & {"contrast", "joint"}:
                near = vectors if "joint" in wanted else None
                self._pools[name] = MatchPool(documents, encoder, config.matching, items=items, vectors=near)
        self._sources = self._weighted(wanted)
        self._packers = {source: self._packer(*source) for source in self._sources}

    def next(self) -> Batch:
        rng = np.random.default_rng([self._seed, self._step])
        self._step += 1
        weights = np.array(list(self._sources.values()))
        source = list(self._sources)[rng.choice(len(weights), p=weights / weights.sum())]
        objective, corpus = source
        places = self._packers[source].take()
        if objective == "language":
            rows = [self._rows[corpus][place] for place in places]
            arrays = self._family.language_batch(rows, self._config, rng)
        else:
            pool = self._pools[corpus]
            chosen = [pool.matches[place] for place in places]
            arrays = pool.joint_batch(chosen, rng) if objective == "joint" else pool.contrast_batch(chosen)
        return Batch(to_tensors(arrays), _tokens(arrays), objective)

    def _packer(self, objective: str, corpus: str) -> Packer:
        config = self._config
        name = f"{objective} {corpus}"
        if objective == "language":
            lengths = [len(row) for row in self._rows[corpus]]
            return Packer(lengths, tokens=config.batch_tokens, seed=self._seed, name=name)
        lengths = self._pools[corpus].lengths()
        tokens = config.matching.contrast_tokens
        if objective == "joint":
            # A group reads its text once with every item.
            tokens = config.batch_tokens // (
                1 + config.matching.near_negatives + config.matching.far_negatives
            )
            lengths = [min(length, self._encoder.spec.max_tokens) for length in lengths]
        # A lone match of a contrast has no negatives.
        return Packer(lengths, tokens=tokens, seed=self._seed, name=name, at_least=2)

    def state(self) -> dict[str, Any]:
        return {"step": self._step, "packers": {" ".join(s): p.state() for s, p in self._packers.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        for source, packer in self._packers.items():
            packer.restore(state["packers"][" ".join(source)])

    def _weighted(self, wanted: set[str]) -> dict[tuple[str, str], float]:
        sources = {
            (objective, corpus): self._config.objectives[objective] * self._config.weights[corpus]
            for objective in sorted(wanted)
            for corpus in self._rows | self._pools
            if self._size(objective, corpus) > (1 if objective == "contrast" else 0)
        }
        if not sources:
            weighted = ", ".join(name for name, weight in self._config.weights.items() if weight)
            raise DataError(
                f"pretrain.weights: none of {weighted} has a document to read; lower the thresholds of the "
                "click log, bring rcd.jsonl, or give dke a weight"
            )
        return sources

    def _size(self, objective: str, corpus: str) -> int:
        return len(self._rows[corpus]) if objective == "language" else len(self._pools[corpus])


def pretraining_loss(config: PretrainConfig) -> LossFn:
    """The loss that each batch was made for."""

    def loss(model: RelevanceModel, batch: Batch) -> Tensor:
        if batch.objective == "contrast":
            return contrast_loss(model, batch.inputs, scale=config.matching.scale)
        if batch.objective == "joint":
            return joint_loss(model, batch.inputs)
        return model.language_loss(batch.inputs)

    return loss


def _tokens(arrays: Mapping[str, IntArray]) -> int:
    return sum(int(array.sum()) for name, array in arrays.items() if name.split(".")[-1] == "lengths")
