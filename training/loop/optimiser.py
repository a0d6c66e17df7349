"""AdamW in groups, and its learning rate over the token budget."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.config import OptimiserConfig
from training.models.base import RelevanceModel


def make_optimiser(model: RelevanceModel, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW in groups: new weights faster, lower layers slower, matrices with decay and the rest without."""
    new = model.new_parameters()
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = config.new_weights_factor if name in new else config.layer_decay ** model.depth(name)
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if matrix else 0.0,
                "base_rate": config.learning_rate * factor,
            }
            for (factor, matrix), parameters in groups.items()
        ],
        betas=config.betas,
        fused=True,
    )


def set_rate(optimiser: torch.optim.Optimizer, config: OptimiserConfig, done: float) -> float:
    """Linear warm-up, then to `final_share` of the peak, linearly or along a cosine; `done` is the share spent."""
    if done < config.warmup:
        factor = max(done / config.warmup, 1e-3)
    else:
        left = min(1.0, (done - config.warmup) / (1 - config.warmup))
        fall = (1 + math.cos(math.pi * left)) / 2 if config.schedule == "cosine" else 1 - left
        factor = max(config.final_share + (1 - config.final_share) * fall, 1e-3)
    for group in optimiser.param_groups:
        group["lr"] = group["base_rate"] * factor
    return config.learning_rate * factor
