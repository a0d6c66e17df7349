"""The `glm` family: blank infilling, relevance by cloze."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from model_repo.encoding import PairEncoder
from model_repo.spec import LiteralPart, QueryPart, RenderSpec, Special, SpecialIds
from training.config import ConfigError, PretrainConfig, RenderConfig
from training.corpus.document import Document
from training.data.dataset import Dataset
from training.models.checkpoint import CheckpointError, load_tokenizer, minilm_path
from training.models.glm.config import SIZES, GLMConfig, named_config
from training.models.glm.folder import load_glm
from training.models.glm.model import GLMModel
from training.models.glm.relevance import RelevanceGlm
from training.models.glm.vocabulary import bert_tokenizer, glm_specials, load_glm_tokenizer, padded_vocabulary
from training.objectives.blank import blank_batch
from training.objectives.rows import IntArray, Row, tokenise_documents
from training.rendering import field_parts, plain_text_field

_QUESTION = "relevant ?"
NAMED = ("glm-tiny", "glm-small")


class GlmFamily:
    """`start` is a checkpoint folder, or glm-tiny or glm-small for fresh weights on MiniLM's vocabulary."""

    def __init__(
        self, start: str | None, *, label_words: tuple[str, str], tokenizer: Tokenizer | None = None
    ) -> None:
        """`tokenizer` replaces MiniLM's for fresh weights. Raises ConfigError when a label word is no single token."""
        self._start = start or "glm-small"
        self.start_weights = self._start
        if self._start in NAMED:
            self.tokenizer = tokenizer or bert_tokenizer(load_tokenizer(minilm_path()))
        else:
            self.tokenizer = _tokenizer_of(Path(self._start))
        self._special = glm_specials(self.tokenizer)
        self._yes, self._no = (_single_token(self.tokenizer, word) for word in label_words)

    def spec(self, dataset: Dataset, config: RenderConfig) -> RenderSpec:
        """[CLS] query fields relevant ? [MASK] <eos> sop: a cloze whose answer is one of two words."""
        return RenderSpec(
            template=(
                Special(kind="cls"),
                QueryPart(budget=config.query_budget),
                *field_parts(dataset, config),
                LiteralPart(kind="literal", text=_QUESTION),
                Special(kind="mask"),
                Special(kind="eos"),
                Special(kind="sop"),
            ),
            max_tokens=config.max_tokens,
            special_ids=SpecialIds(
                cls=self._special.cls,
                eos=self._special.eos,
                pad=self._special.eos,
                mask=self._special.mask,
                sop=self._special.sop,
            ),
            plain_text_field=plain_text_field(dataset),
        )

    def positions(self) -> int:
        """Rows of the position tables. Part B takes none beyond: it repeats places of part A, and no span is longer
        than its document.

        Raises CheckpointError when the start folder has no readable config.json.
        """
        if self._start in NAMED:
            return SIZES[self._start]["max_sequence_length"] + 1
        try:
            return int(GLMConfig.from_pretrained(self._start).max_sequence_length) + 1
        except (OSError, ValueError) as error:
            raise CheckpointError(f"start {self._start}: {error}") from error

    def model(self, *, segments: int, dropout: float) -> RelevanceGlm:
        if self._start in NAMED:
            glm = fresh_glm(self._start, self.tokenizer, segments=segments, dropout=dropout)
        else:
            glm = load_glm(Path(self._start), segment_count=segments, dropout=dropout)
        return RelevanceGlm(glm, yes=self._yes, no=self._no)

    def rows(self, documents: Sequence[Document], encoder: PairEncoder, *, max_tokens: int) -> list[Row]:
        return tokenise_documents(documents, encoder, max_tokens=max_tokens, separate=False)

    def language_batch(
        self, rows: Sequence[Row], config: PretrainConfig, rng: np.random.Generator
    ) -> dict[str, IntArray]:
        return blank_batch(rows, config.blank, self._special, rng)


def fresh_glm(size: str, tokenizer: Tokenizer, *, segments: int, dropout: float) -> GLMModel:
    """Random weights, but for the words that MiniLM knows where the widths agree: those need not be learnt anew."""
    from safetensors.torch import load_file

    config = named_config(
        size,
        vocab_size=padded_vocabulary(tokenizer),
        segment_count=segments,
        embedding_dropout_prob=dropout,
        attention_dropout_prob=dropout,
        output_dropout_prob=dropout,
    )
    model = GLMModel(config)
    words = load_file(minilm_path() / "model.safetensors")["embeddings.word_embeddings.weight"]
    if words.shape[1] == config.hidden_size:
        known = load_tokenizer(minilm_path()).get_vocab()
        shared = [(place, known[word]) for word, place in tokenizer.get_vocab().items() if word in known]
        here, there = torch.tensor(shared).T
        with torch.no_grad():
            model.word_embeddings.weight[here] = words[there]
    return model


def _tokenizer_of(start: Path) -> Tokenizer:
    """Raises CheckpointError for a folder without a GLM vocabulary."""
    try:
        tokenizer = load_glm_tokenizer(start)
        glm_specials(tokenizer)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"start {start}: {error}") from error
    return tokenizer


def _single_token(tokenizer: Tokenizer, word: str) -> int:
    ids = tokenizer.encode(word, add_special_tokens=False).ids
    if len(ids) != 1:
        raise ConfigError(f"label_words: {word!r} is {len(ids)} tokens; choose a word that is one")
    return int(ids[0])
