"""The manifest: what a bundle version holds, how it was made, and the fingerprint that names its scores."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model_repo.calibration import Calibration
from model_repo.spec import RenderSpec


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Agreement(_Strict):
    """How far a graph is from fp32 PyTorch on the same rounded weights, over `pairs` golden pairs."""

    pairs: int
    max_abs_logit: float
    mean_abs_logit: float
    max_abs_relevance: float
    engine: str


class Graph(_Strict):
    """One ONNX graph of the version."""

    file: str
    precision: Literal["fp32", "fp16", "int8"]
    opset: int
    min_onnxruntime: str
    inputs: tuple[str, ...]
    weight_files: tuple[str, ...] = ()
    agreement: Agreement


class Provenance(_Strict):
    """Enough to make the version again."""

    command: str
    seed: int
    created: str
    commit: str | None = None
    start_weights: str
    dataset: str
    dataset_licence: str
    config: dict[str, Any]


NAME = r"^[a-z0-9][a-z0-9_-]*$"
"""Names of bundles: folders, URLs and metric labels hold them."""


class Manifest(_Strict):
    """manifest.json of one version. `files` maps every other file to its sha256."""

    format_version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    version: str = Field(pattern=r"^[1-9][0-9]*$")
    family: Literal["encoder", "glm"]
    spec: RenderSpec
    calibration: Calibration
    graphs: dict[str, Graph] = Field(min_length=1)
    files: dict[str, str]
    fingerprint: str
    provenance: Provenance
    metrics: dict[str, Any] = {}

    @model_validator(mode="after")
    def _fingerprint_is_right(self) -> Self:
        expected = fingerprint(self.spec, self.calibration, self.graphs, self.files)
        if self.fingerprint != expected:
            raise ValueError(f"fingerprint is {self.fingerprint}, the content gives {expected}")
        return self


def fingerprint(
    spec: RenderSpec, calibration: Calibration, graphs: dict[str, Graph], files: dict[str, str]
) -> str:
    """sha256 over the canonical spec, the calibration and the checksums of graphs, weights and tokenizer.

    Metrics and the model card may be corrected without invalidating a single cached score.
    """
    names = {"tokenizer.json"}.union(*({graph.file, *graph.weight_files} for graph in graphs.values()))
    missing = names - files.keys()
    if missing:
        raise ValueError(f"files: no checksum for {sorted(missing)}")
    content = {
        "spec": spec.model_dump(mode="json"),
        "calibration": calibration.model_dump(mode="json"),
        "files": {name: files[name] for name in sorted(names)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
