"""Run a bundle's graph in ONNX Runtime. The one inference path of serving, offline scoring and export checks."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_repo.bundle import Bundle, BundleError
from model_repo.encoding import EncodedPairs


def cuda_present() -> bool:
    """Whether a CUDA driver with a device answers; asking ONNX Runtime would log errors where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        count = ctypes.c_int()
        return bool(
            driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
        )
    except OSError:
        return False


class OnnxScorer:
    """One session over one graph. `logits` may be called from several threads; it releases the GIL."""

    def __init__(self, bundle: Bundle, *, graph: str = "fp32", threads: int | None = None) -> None:
        """`threads`: cores one call uses (default all). Raises BundleError when the graph cannot load."""
        try:
            entry = bundle.manifest.graphs[graph]
        except KeyError:
            known = ", ".join(bundle.manifest.graphs)
            raise BundleError(f"{bundle.path}: has no graph {graph!r}; it has {known}") from None
        self._open(bundle.path / entry.file, entry.precision, entry.inputs, threads)
        self._pad_id = bundle.manifest.spec.special_ids.pad

    @classmethod
    def from_file(cls, path: Path, precision: str, inputs: Sequence[str], pad_id: int) -> OnnxScorer:
        """A scorer over a graph that is not in a bundle yet; for exporters."""
        scorer = cls.__new__(cls)
        scorer._open(path, precision, inputs, None)
        scorer._pad_id = pad_id
        return scorer

    def _open(self, path: Path, precision: str, inputs: Sequence[str], threads: int | None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        # Spinning workers take the cores from neighbours between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        if cuda_present() and "CUDAExecutionProvider" in ort.get_available_providers():
            ort.preload_dlls()
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise BundleError(f"{path}: {error}") from error
        self._inputs = tuple(inputs)
        device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        self.numerics = f"{precision}/ort-{device}"

    def logits(self, pairs: EncodedPairs) -> npt.NDArray[np.float32]:
        """fp32 logits [n], one forward pass over all pairs padded to the longest."""
        arrays = pairs.collate(pad_id=self._pad_id)
        (logits,) = self._session.run(["logits"], {name: arrays[name] for name in self._inputs})
        return np.asarray(logits, dtype=np.float32)


def length_sorted_batches(pairs: EncodedPairs, *, max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Split pairs into batches of similar length, each at most `max_tokens` with its padding."""
    lengths = pairs.lengths
    batches: list[list[int]] = [[]]
    for row in np.argsort(lengths, kind="stable"):
        if batches[-1] and int(lengths[row]) * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
        batches[-1].append(int(row))
    return [np.array(batch, dtype=np.int64) for batch in batches if batch]


def score_all(scorer: OnnxScorer, pairs: EncodedPairs, *, max_tokens: int = 4096) -> npt.NDArray[np.float32]:
    """Logits of any number of pairs, in their order."""
    logits = np.empty(len(pairs), dtype=np.float32)
    for batch in length_sorted_batches(pairs, max_tokens=max_tokens):
        logits[batch] = scorer.logits(pairs.take(batch))
    return logits
