"""config.pbtxt, so that NVIDIA Triton serves the same folder. Our own service never reads it."""

from __future__ import annotations

from collections.abc import Sequence

_DIMS = {"input_ids": "-1, -1", "segment_ids": "-1, -1"}


def config_pbtxt(name: str, inputs: Sequence[str]) -> str:
    """Model configuration for graphs with these inputs; the batch dimension is part of the shapes."""
    entries = ",\n".join(
        f'  {{ name: "{key}" data_type: TYPE_INT64 dims: [ {_DIMS.get(key, "-1")} ] }}' for key in inputs
    )
    return (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        'default_model_filename: "model.onnx"\n'
        "max_batch_size: 0\n"
        f"input [\n{entries}\n]\n"
        'output [\n  { name: "logits" data_type: TYPE_FP32 dims: [ -1 ] }\n]\n'
    )
