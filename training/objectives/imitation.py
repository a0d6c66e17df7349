"""Imitation: a GLM learns to give a BERT's hidden states, so that layers taken over from it mean what they meant.

With the states x_l that BERT has after its embeddings and after each layer, and y_l that GLM has behind the
LayerNorms in the same places,

    loss = |y_N - x_N|^2 / |x_N - mean x_N|^2 + mean over l < N of the same + 1 - cos(mean y_N, mean x_N)

where sums run over the real tokens of a batch and the last term over its texts. Token by token, layer by layer
as in TinyBERT (Jiao et al. 2020), with nothing to project because widths agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from training.models.base import RelevanceModel, masked_mean, to_tensors
from training.models.glm.relevance import RelevanceGlm
from training.streams import Batch, Packer


class TextStream:
    """Endless batches of texts, all of each is part A."""

    def __init__(self, texts: Sequence[Sequence[int]], *, tokens: int, seed: int) -> None:
        """`texts`: token ids; `tokens`: padded size of a batch."""
        self._texts = texts
        self._packer = Packer([len(text) for text in texts], tokens=tokens, seed=seed, name="texts")

    def next(self) -> Batch:
        rows = [self._texts[place] for place in self._packer.take()]
        lengths = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), lengths.max()), dtype=np.int64)
        for row, text in zip(ids, rows, strict=True):
            row[: len(text)] = text
        arrays = {"input_ids": ids, "segment_ids": np.zeros_like(ids), "lengths": lengths}
        return Batch(to_tensors(arrays), int(lengths.sum()))

    def state(self) -> dict[str, Any]:
        return {"packer": self._packer.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._packer.restore(state["packer"])


class Imitation:
    """The loss of a RelevanceGlm against `bert`, which must have its words, width and layers."""

    def __init__(self, bert: Any) -> None:
        self._bert = bert.eval()

    def __call__(self, model: RelevanceModel, batch: Batch) -> Tensor:
        if not isinstance(model, RelevanceGlm):
            raise TypeError(f"{type(model).__name__} has no layers to compare")
        ids_BL, lengths_B = batch.inputs["input_ids"], batch.inputs["lengths"]
        real_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < lengths_B[:, None]
        with torch.no_grad():
            bert = self._bert.to(ids_BL.device)
            found = bert(input_ids=ids_BL, attention_mask=real_BL.long(), output_hidden_states=True)
        with _behind_norms(model) as ours:
            model.states(batch.inputs)
        *inner, last = (_distance(y, x, real_BL) for y, x in zip(ours, found.hidden_states, strict=True))
        mean_BD, wanted_BD = (masked_mean(x, real_BL) for x in (ours[-1], found.hidden_states[-1]))
        apart = 1 - functional.cosine_similarity(mean_BD, wanted_BD).mean()
        return last + torch.stack(inner).mean() + apart


@contextmanager
def _behind_norms(model: RelevanceGlm) -> Iterator[list[Tensor]]:
    """What each block reads and the stack gives, in order, of the forward pass within."""
    stack, states = model.glm.transformer, []
    norms: list[Any] = [*(layer.input_layernorm for layer in stack.layers), stack.final_layernorm]
    hooks = [norm.register_forward_hook(lambda _module, _inputs, out: states.append(out)) for norm in norms]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


def _distance(y_BLD: Tensor, x_BLD: Tensor, real_BL: Tensor) -> Tensor:
    """Squared error as a share of the variance."""
    y_ND, x_ND = y_BLD[real_BL], x_BLD[real_BL]
    return (y_ND - x_ND).square().sum() / (x_ND - x_ND.mean(0)).square().sum()
