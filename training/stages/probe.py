"""What a change of the configuration is worth on dev: for choices, so test is never read."""

from __future__ import annotations

from typing import Any

import numpy as np

from training.evaluation.bootstrap import Run, plain, seed_means
from training.evaluation.metrics import best_threshold
from training.evaluation.slices import slice_masks
from training.stages.evaluate import relevant_pairs, split_scores
from training.stages.names import PRETRAIN, RECIPE, SFT_ALONE
from training.stages.run import Workshop, fine_tune_all, pretrain

STAGES = {PRETRAIN: "before any label", SFT_ALONE: "SFT alone", RECIPE: "after SFT"}


def probe(shop: Workshop) -> dict[str, Any]:
    """Train what the run folder lacks; return metrics with 95% intervals by stage and slice of dev.

    F1 and accuracy use the threshold that is best on dev itself, so they flatter; the others need none.
    Raises ConfigError when another process trains in the folder.
    """
    with shop.folder.training():
        pretrain(shop)
        fine_tune_all(shop)
    pairs, scale = shop.dataset.labels("dev"), shop.dataset.card.labels
    masks = {"all": np.ones(len(pairs), dtype=bool), **slice_masks(shop.dataset, pairs)}
    model, stages = shop.model(), {}
    for stage, title in STAGES.items():
        if not shop.folder.has_weights(stage):
            continue
        shop.folder.load_weights(stage, model)
        scores = split_scores(model, shop.dataset, shop.source, "dev", title=title)
        run = Run(scores, best_threshold(relevant_pairs(shop.dataset, "dev"), scores))
        stages[title] = {
            name: plain(seed_means(pairs, run, scale=scale, mask=mask)) for name, mask in masks.items()
        }
    shop.folder.finish("probe", stages)
    return stages
