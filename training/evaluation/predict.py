"""Logits of a PyTorch model for any number of encoded pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from model_repo.encoding import EncodedPairs
from model_repo.runtime import length_sorted_batches
from training.models.base import RelevanceModel, to_tensors


@torch.inference_mode()
def predict(
    model: RelevanceModel,
    pairs: EncodedPairs,
    *,
    pad_id: int,
    title: str,
    max_tokens: int = 4096,
    quiet: bool = False,
) -> npt.NDArray[np.float32]:
    """Logits [n] in the order of `pairs`; batches of similar length, at most `max_tokens` each."""
    model.eval()
    device = next(model.parameters()).device
    logits = np.empty(len(pairs), dtype=np.float32)
    for batch in track(length_sorted_batches(pairs, max_tokens=max_tokens), description=title, disable=quiet):
        inputs = to_tensors(pairs.take(batch).collate(pad_id=pad_id))
        logits[batch] = (
            model({name: tensor.to(device) for name, tensor in inputs.items()}).float().cpu().numpy()
        )
    return logits
