"""A base GLM where no checkpoint is at hand: pre-trained on the item texts of catalogues, no query, no label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from tokenizers import Tokenizer
from transformers import AutoModel

from model_repo.text import canonical_text
from training.config import OptimiserConfig, PretrainConfig, RenderConfig, read_yaml
from training.corpus.dke import build_dke
from training.corpus.document import CorpusReport
from training.data.dataset import Dataset, load_dataset
from training.families import check_lengths, pair_encoder
from training.families.glm import GlmFamily
from training.loop import train
from training.models.checkpoint import minilm_path, quiet_transformers
from training.models.glm.folder import save_glm
from training.models.glm.relevance import RelevanceGlm
from training.models.glm.transplant import transplant
from training.models.glm.vocabulary import train_tokenizer
from training.objectives.imitation import Imitation, TextStream
from training.stages.artifacts import RunFolder
from training.stages.pretrain import MixtureStream, pretraining_loss
from training.streams import Batch

_SAMPLE = 64


class BaseRunConfig(BaseModel):
    """What a base checkpoint depends on but the catalogues and the code."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Literal["glm-tiny", "glm-small"] = "glm-small"
    vocabulary: Literal["minilm", "catalogue"] = "minilm"
    """catalogue: a WordPiece vocabulary learnt from the texts. Words that MiniLM knows start from it either way."""
    vocabulary_size: int = Field(default=8192, ge=256)
    layers: Literal["minilm", "fresh"] = "fresh"
    """minilm: layers start from MiniLM's too, which has glm-small's sizes."""
    imitate: OptimiserConfig | None = None
    """Before the objectives, train the layers to give MiniLM's states; needs layers: minilm."""
    seed: int = Field(default=0, ge=0)
    render: RenderConfig = RenderConfig(max_tokens=96)
    """How `joint` reads an item against its first field."""
    pretrain: PretrainConfig
    """Of the corpora only DKE, and of it only the items' own fields are used."""

    @model_validator(mode="after")
    def _layers_fit(self) -> Self:
        if self.layers == "minilm" and (self.size, self.vocabulary) != ("glm-small", "minilm"):
            raise ValueError("layers: minilm needs size glm-small and vocabulary minilm")
        if self.imitate and self.layers != "minilm":
            raise ValueError("imitate needs layers: minilm; fresh layers are far from any state of MiniLM's")
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
    check_lengths(
        config.size,
        family.positions(),
        {
            "pretrain.max_document_tokens": config.pretrain.max_document_tokens,
            "render.max_tokens": config.render.max_tokens,
        },
    )
    # Segment ids mean something else in every catalogue, so the base has no table for them.
    torch.manual_seed(config.seed)
    model = family.model(segments=0, dropout=0.0)
    if config.layers == "minilm":
        _start_from_minilm(model, family, datasets, config, folder)
    stream = _Catalogues(datasets, family, config)
    curve = train(
        model,
        stream,
        pretraining_loss(config.pretrain),
        config.pretrain.optimiser,
        title=f"base ({config.size}, {sum(stream.documents)} documents)",
        journal=folder.journal("base"),
    )
    save_glm(model.glm, family.tokenizer, out)
    folder.finish(
        "base",
        {"catalogues": [path.name for path in catalogues], "documents": stream.documents, "curve": curve},
    )


def _start_from_minilm(
    model: RelevanceGlm,
    family: GlmFamily,
    datasets: Sequence[Dataset],
    config: BaseRunConfig,
    folder: RunFolder,
) -> None:
    quiet_transformers()
    bert = AutoModel.from_pretrained(minilm_path(), dtype=torch.float32)
    whole = [dataset.item_text(item_id) for dataset in datasets for item_id in list(dataset.items)[:_SAMPLE]]
    transplant(bert, model.glm, [family.tokenizer.encode(text).ids[:_SAMPLE] for text in whole])
    if config.imitate is None:
        return
    if folder.result("imitation") is None:
        longest = config.pretrain.max_document_tokens
        texts = [family.tokenizer.encode(text).ids[:longest] for text in _texts(datasets)]
        curve = train(
            model,
            TextStream(texts, tokens=config.pretrain.batch_tokens, seed=config.seed),
            Imitation(bert),
            config.imitate,
            title=f"imitation of MiniLM ({len(texts)} texts)",
            journal=folder.journal("imitation"),
        )
        folder.finish("imitation", {"curve": curve}, model)
    folder.load_weights("imitation", model)


def _texts(datasets: Sequence[Dataset]) -> Iterator[str]:
    """Every item as a whole and each of its fields alone, which are as short as queries."""
    for dataset in datasets:
        for item_id, item in dataset.items.items():
            yield dataset.item_text(item_id)
            yield from filter(None, map(canonical_text, item.fields.values()))


def _tokenizer(config: BaseRunConfig, datasets: Sequence[Dataset]) -> Tokenizer | None:
    """None: MiniLM's."""
    if config.vocabulary == "minilm":
        return None
    texts = [dataset.item_text(item_id) for dataset in datasets for item_id in dataset.items]
    return train_tokenizer(texts, vocab_size=config.vocabulary_size)


class _Catalogues:
    """Endless batches; each comes from one catalogue, drawn by its number of documents."""

    def __init__(self, datasets: Sequence[Dataset], family: GlmFamily, config: BaseRunConfig) -> None:
        fields_only = config.pretrain.dke.model_copy(update={"max_queries": 0})
        self.documents: list[int] = []
        self._streams: list[MixtureStream] = []
        for dataset in datasets:
            documents = list(CorpusReport().documents(build_dke(dataset, fields_only, seed=config.seed)))
            self.documents.append(len(documents))
            self._streams.append(
                MixtureStream(
                    {"dke": documents},
                    pair_encoder(family, dataset, config.render),
                    family,
                    config.pretrain,
                    items=dataset.item_fields(),
                    vectors=None,
                    seed=config.seed,
                )
            )
        self._seed, self._step = config.seed, 0

    def next(self) -> Batch:
        rng = np.random.default_rng([self._seed, self._step])
        self._step += 1
        shares = np.array(self.documents) / sum(self.documents)
        return self._streams[rng.choice(len(self._streams), p=shares)].next()

    def state(self) -> dict[str, Any]:
        return {"step": self._step, "streams": [stream.state() for stream in self._streams]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.restore(saved)
