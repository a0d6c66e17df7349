"""Bytes of a training step on one device, as `training.loop` takes it: fp32 weights under autocast, fused AdamW."""

from __future__ import annotations

from dataclasses import dataclass

from training.config import OptimiserConfig
from training.plan.anatomy import Anatomy
from training.plan.batches import Shape

_SINGLE = 4
# CUDA context, kernels' work space and what an allocator cannot reuse (ours, from practice).
RESERVE = 0.08


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. Their sum bounds the peak from above: not all gradients exist while all activations do."""

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    logits: int

    @property
    def state(self) -> int:
        """What is there whatever the batch."""
        return self.weights + self.gradients + self.moments + self.copies

    @property
    def total(self) -> int:
        return self.state + self.activations + self.logits


def step_memory(
    anatomy: Anatomy,
    shape: Shape,
    config: OptimiserConfig,
    *,
    dropout: float,
    checkpointing: bool | None = None,
) -> Memory:
    """Memory of one step. The fp32 weights are the master copy; gradients and both moments are fp32 too.

    Under bf16 or fp16 autocast keeps a half copy of every weight in a matrix product until the backward pass
    has used it. `checkpointing` overrides the config's.
    """
    half = config.precision != "no"
    kept = config.gradient_checkpointing if checkpointing is None else checkpointing
    return Memory(
        weights=_SINGLE * anatomy.parameters,
        gradients=_SINGLE * anatomy.parameters,
        moments=2 * _SINGLE * anatomy.parameters,
        copies=2 * (anatomy.layer_weights + anatomy.head_weights) if half else 0,
        activations=round(activation_bytes(anatomy, shape, half=half, dropout=dropout, checkpointing=kept)),
        logits=round(logit_bytes(anatomy, shape, half=half)),
    )


def activation_bytes(
    anatomy: Anatomy, shape: Shape, *, half: bool, dropout: float = 0.0, checkpointing: bool = False
) -> float:
    """What the backward pass needs of the layers, after Korthikanti et al. 2022 (arXiv 2205.05198), section 4.

    Theirs, per token and layer of width h: 34h bytes in 16 bit, of which 2h are dropout masks and 4h the inputs of
    the two LayerNorms, and 5as for the scores of a heads. Ours: the LayerNorms read the fp32 residual stream, so
    8h; the inputs of the four projections, Q, K, V and the GELU's input make 14 tensors of width h in c bytes
    (c = 2 under autocast, else 4): (8 + 14c)h, 36h or 64h. Fused attention keeps no scores, only its mask: cs.
    A BERT's Q, K and V cast their input each: 2c more in half precision. Dropout adds two masks of h bytes.
    With checkpointing a layer keeps its fp32 input, 4h, and one layer at a time is whole.
    """
    h, c = anatomy.hidden, 2 if half else 4
    fixed = (8 + 14 * c) * h + (2 * c * h if half and anatomy.apart else 0) + (2 * h if dropout else 0)
    layer = sum(rows * length * (fixed + c * length) for rows, length in shape.texts)
    ends = 8 * h * shape.padded
    if checkpointing:
        return anatomy.layers * 4 * h * shape.padded + layer + ends
    return anatomy.layers * layer + ends


def logit_bytes(anatomy: Anatomy, shape: Shape, *, half: bool) -> float:
    """Rows told x vocabulary: the logits, their fp32 log-softmax and its gradient, and half copies under autocast."""
    return shape.told * anatomy.vocabulary * (2 * _SINGLE + (2 if half else 0))
