"""A base GLM where no checkpoint is at hand: blank infilling on the item texts of catalogues, no query, no label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer
from transformers import AutoModel

from training.config import PretrainConfig, RenderConfig, read_yaml
from training.corpus.dke import DkeConfig, build_dke
from training.corpus.document import CorpusReport
from training.data.dataset import Dataset, load_dataset
from training.families import check_lengths, pair_encoder
from training.families.glm import GlmFamily
from training.loop import train
from training.models.base import to_tensors
from training.models.checkpoint import minilm_path, quiet_transformers
from training.models.glm.folder import save_glm
from training.models.glm.model import GLMModel
from training.models.glm.transplant import transplant
from training.models.glm.vocabulary import train_tokenizer
from training.objectives.rows import Row
from training.stages.artifacts import RunFolder
from training.streams import Batch, Packer

_SAMPLE = 64
# Documents alone are read: however many fields a catalogue has, no budget can be too small.
_NO_PAIRS = RenderConfig(max_tokens=2**20)


class BaseRunConfig(BaseModel):
    """What a base checkpoint depends on but the catalogues and the code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Literal["glm-tiny", "glm-small"] = "glm-small"
    vocabulary: Literal["minilm", "catalogue"] = "minilm"
    """catalogue: a WordPiece vocabulary learnt from the texts. Words that MiniLM knows start from it either way."""
    vocabulary_size: int = Field(default=8192, ge=256)
    layers: Literal["minilm", "fresh"] = "fresh"
    """minilm: layers start from MiniLM's too, which has glm-small's sizes."""
    seed: int = Field(default=0, ge=0)
    pretrain: PretrainConfig
    """Of the objectives only blank infilling, and of the corpora only the items' own fields are used."""

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        if self.layers == "minilm" and (self.size, self.vocabulary) != ("glm-small", "minilm"):
            raise ValueError("layers: minilm needs size glm-small and vocabulary minilm")
        return self


def load_base_config(path: Path) -> BaseRunConfig:
    """Raises ConfigError naming the file and each wrong field."""
    return read_yaml(path, BaseRunConfig)


def pretrain_base(config: BaseRunConfig, catalogues: Sequence[Path], out: Path) -> Path:
    """Write a checkpoint folder in the layout of `THUDM/glm-*` to `out`, resumable; return it.

    The state of the run lies in `out/run`. Raises DataError for a catalogue that cannot be read,
    ConfigError when `out` was made from another configuration or other catalogues, or another process trains there.
    """
    folder = RunFolder(out / "run", config)
    folder.bind(*catalogues)
    with folder.training():
        if folder.result("base") is None:
            _pretrain(config, catalogues, folder, out)
    return out


def _pretrain(config: BaseRunConfig, catalogues: Sequence[Path], folder: RunFolder, out: Path) -> None:
    datasets = [load_dataset(path, strict=False) for path in catalogues]
    family = GlmFamily(config.size, label_words=("yes", "no"), tokenizer=_tokenizer(config, datasets))
    check_lengths(family, {"pretrain.max_document_tokens": config.pretrain.max_document_tokens})
    rows = [row for dataset in datasets for row in _rows(dataset, family, config)]
    # Segment ids mean something else in every catalogue, so the base has no table for them.
    torch.manual_seed(config.seed)
    model = family.model(segments=0, dropout=0.0)
    if config.layers == "minilm":
        _start_from_minilm(model.glm, rows)
    stream = _LanguageStream(rows, family, config.pretrain, seed=config.seed)
    curve = train(
        model,
        stream,
        lambda model, batch: model.language_loss(batch.inputs),
        config.pretrain.optimiser,
        title=f"blank infilling ({config.size}, {len(rows)} documents)",
        journal=folder.journal("base"),
    )
    save_glm(model.glm, family.tokenizer, out)
    folder.finish(
        "base", {"catalogues": [path.name for path in catalogues], "documents": len(rows), "curve": curve}
    )


def _start_from_minilm(glm: GLMModel, rows: Sequence[Row]) -> None:
    quiet_transformers()
    bert = AutoModel.from_pretrained(minilm_path(), dtype=torch.float32)
    transplant(bert, glm, [row.input_ids.tolist() for row in rows[:_SAMPLE]])


def _tokenizer(config: BaseRunConfig, datasets: Sequence[Dataset]) -> Tokenizer | None:
    """None: MiniLM's."""
    if config.vocabulary == "minilm":
        return None
    texts = [dataset.item_text(item_id) for dataset in datasets for item_id in dataset.items]
    return train_tokenizer(texts, vocab_size=config.vocabulary_size)


def _rows(dataset: Dataset, family: GlmFamily, config: BaseRunConfig) -> list[Row]:
    encoder = pair_encoder(family, dataset, _NO_PAIRS)
    fields_only = DkeConfig(**config.pretrain.dke.model_dump() | {"max_queries": 0})
    documents = list(CorpusReport().documents(build_dke(dataset, fields_only, seed=config.seed)))
    rows = family.rows(documents, encoder, max_tokens=config.pretrain.max_document_tokens)
    return [replace(row, segment_ids=np.zeros_like(row.segment_ids)) for row in rows]


class _LanguageStream:
    """Endless batches of blank infilling over one list of documents."""

    def __init__(self, rows: Sequence[Row], family: GlmFamily, config: PretrainConfig, *, seed: int) -> None:
        self._rows, self._family, self._config, self._seed = rows, family, config, seed
        lengths = [len(row) for row in rows]
        self._packer = Packer(lengths, tokens=config.batch_tokens, seed=seed, name="base")
        self._step = 0

    def next(self) -> Batch:
        rng = np.random.default_rng([self._seed, self._step])
        self._step += 1
        rows = [self._rows[place] for place in self._packer.take()]
        arrays = self._family.language_batch(rows, self._config, rng)
        return Batch(to_tensors(arrays), int(arrays["lengths"].sum()), "language")

    def state(self) -> dict[str, Any]:
        return {"step": self._step, "packer": self._packer.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        self._packer.restore(state["packer"])
