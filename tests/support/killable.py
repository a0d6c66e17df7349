"""A small pre-training that a test runs in a process of its own and kills: `python -m support.killable FOLDER`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from support.data import SAMPLE
from support.glm import tiny_glm_folder
from support.streams import mixture
from training.config import PretrainConfig
from training.data.dataset import load_dataset
from training.families.glm import GlmFamily
from training.loop import Journal, train
from training.models.base import RelevanceModel
from training.stages.pretrain import pretraining_loss

CONFIG = PretrainConfig.model_validate(
    {
        "optimiser": {"tokens": 10_000, "learning_rate": 1e-3},
        "batch_tokens": 256,
        "max_document_tokens": 48,
        "objectives": {"language": 1.0, "contrast": 1.0, "joint": 1.0},
        "matching": {"contrast_tokens": 256, "near_negatives": 1, "far_negatives": 1},
    }
)


class _Slow:
    """A watch that gives the test time to kill; it counts its steps, so that a resumed run shows them."""

    def __init__(self, step_s: float) -> None:
        self._step_s, self.steps = step_s, 0

    def __call__(self, model: RelevanceModel, tokens: int) -> bool:
        time.sleep(self._step_s)
        self.steps += 1
        return False

    def state(self) -> int:
        return self.steps

    def restore(self, state: int) -> None:
        self.steps = state


def pretrain_tiny(folder: Path, *, step_s: float = 0.0) -> tuple[RelevanceModel, list[dict[str, float]]]:
    """Train with dropout and all objectives, or go on where a killed process was; `step_s` slows each step."""
    torch.manual_seed(0)
    family = GlmFamily(str(tiny_glm_folder(folder / "start", segment_count=7)), label_words=("yes", "no"))
    stream, encoder = mixture(family, load_dataset(SAMPLE), CONFIG)
    model = family.model(segments=encoder.spec.segment_count, dropout=0.1)
    journal = Journal(folder / "stage.checkpoint", folder / "events", every_s=5 * step_s)

    curve = train(
        model,
        stream,
        pretraining_loss(CONFIG),
        CONFIG.optimiser,
        title="tiny",
        journal=journal,
        watch=_Slow(step_s),
    )
    return model, curve


if __name__ == "__main__":
    pretrain_tiny(Path(sys.argv[1]), step_s=0.02)
