"""FLOP of a training step."""

from __future__ import annotations

from training.plan.anatomy import Anatomy
from training.plan.batches import Shape


def step_flops(anatomy: Anatomy, shape: Shape, *, checkpointing: bool) -> float:
    """6ND, 8ND where checkpointing runs each layer forward twice, and attention over the padded length.

    N counts the matrices of the layers; D all tokens that are computed, padding included. Scores and mix cost
    4Lhs forward per token (Korthikanti et al. 2022, appendix A), backward twice that. The vocabulary head is
    computed for told rows only, and never twice.
    """
    passes = 4 if checkpointing else 3
    products = 2 * passes * anatomy.layer_weights * shape.padded
    attention = sum(
        4 * passes * anatomy.layers * anatomy.hidden * rows * length * length for rows, length in shape.texts
    )
    return products + attention + 6 * anatomy.head_weights * shape.told
