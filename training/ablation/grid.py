"""The grid of an ablation: which recipes, over which seeds and shares of the labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

from training.baselines import BASELINES
from training.config import RunConfig, read_yaml

FULL, NONE = "full", "none"


_Change = Callable[[RunConfig], RunConfig]


def _without(*corpora: str) -> _Change:
    def changed(config: RunConfig) -> RunConfig:
        return _pretrain(config, weights=config.pretrain.weights | dict.fromkeys(corpora, 0.0))

    return changed


def _reading(objective: str) -> _Change:
    return lambda config: _pretrain(config, objectives={objective: 1.0})


def _pretrain(config: RunConfig, **changes: dict[str, float]) -> RunConfig:
    return config.model_copy(update={"pretrain": config.pretrain.model_copy(update=changes)})


def _longer(config: RunConfig) -> RunConfig:
    tokens = config.sft.optimiser.tokens + config.pretrain.optimiser.tokens
    optimiser = config.sft.optimiser.model_copy(update={"tokens": tokens})
    return config.model_copy(update={"sft": config.sft.model_copy(update={"optimiser": optimiser})})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a variant changes of the grid's `run`; without pre-training it is SFT from the start weights."""

    change: _Change = lambda config: config
    pretrained: bool = True


RECIPES = {
    FULL: Recipe(),
    "-dke": Recipe(_without("dke")),
    "-icp": Recipe(_without("icp")),
    "-rcd": Recipe(_without("rcd")),
    "dke-only": Recipe(_without("icp", "rcd")),
    "icp-only": Recipe(_without("dke", "rcd")),
    "rcd-only": Recipe(_without("dke", "icp")),
    "contrast-only": Recipe(_reading("contrast")),
    "joint-only": Recipe(_reading("joint")),
    "language-only": Recipe(_reading("language")),
    NONE: Recipe(pretrained=False),
    "none-longer": Recipe(_longer, pretrained=False),
}
"""`-dke` leaves a corpus out and `dke-only` the two others; `joint-only` keeps all corpora and drops the other
objectives; `none` is SFT alone, and `none-longer` spends the tokens of pre-training on SFT too."""
_BASELINE_CHANGES: dict[str, _Change] = {"sbert-cross-encoder-longer": _longer}
"""Baselines read `run` too; this one gets as many tokens as the whole recipe, as `none-longer` does."""
UNTRAINED = ("bm25", "minilm-cosine")
"""Baselines that read no label and draw nothing: one cell whatever the seeds and shares."""


class CellBlock(BaseModel):
    """Every variant with every share of the labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variants: tuple[str, ...]
    label_shares: tuple[float, ...] = (1.0,)

    @field_validator("variants")
    @classmethod
    def _known(cls, variants: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := set(variants) - RECIPES.keys() - set(BASELINES):
            raise ValueError(
                f"{sorted(unknown)} are no variants; there are {', '.join([*RECIPES, *BASELINES])}"
            )
        return variants

    @field_validator("label_shares")
    @classmethod
    def _shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or not all(0 < share <= 1 for share in shares):
            raise ValueError(f"{shares}: a share of the labels lies above 0 and is at most 1")
        return shares


class Ground(BaseModel):
    """What all cells of a folder have in common; seeds and cells may be added later."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: RunConfig
    dev_queries: int | None = Field(default=None, ge=2)
    """Draw this many queries of dev; None: all."""
    test_queries: int | None = Field(default=None, ge=2)


class AblationConfig(Ground):
    """One YAML file: the recipe that is taken apart, and the grid."""

    title: str
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2), min_length=1)
    cells: tuple[CellBlock, ...] = Field(min_length=1)

    def ground(self) -> Ground:
        return Ground(run=self.run, dev_queries=self.dev_queries, test_queries=self.test_queries)


def load_ablation(path: Path) -> AblationConfig:
    """Raises ConfigError naming the file and each wrong field."""
    return read_yaml(path, AblationConfig)


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run, or one baseline, that is scored on dev and test."""

    seed: int
    label_share: float
    variant: str

    @property
    def name(self) -> str:
        return f"{self.variant}.labels{100 * self.label_share:g}.seed{self.seed}"

    def config(self, grid: AblationConfig) -> RunConfig:
        """The recipe of this cell."""
        changes = {name: recipe.change for name, recipe in RECIPES.items()} | _BASELINE_CHANGES
        config = changes.get(self.variant, RECIPES[FULL].change)(grid.run)
        sft = config.sft.model_copy(update={"label_share": self.label_share})
        return config.model_copy(update={"seed": self.seed, "sft": sft})


def cells(grid: AblationConfig) -> list[Cell]:
    """Every cell once, block by block and seed by seed: what matters most stands first in the grid."""
    found: dict[Cell, None] = {}
    for block, seed in itertools.product(grid.cells, grid.seeds):
        for variant, share in itertools.product(block.variants, block.label_shares):
            free = variant in UNTRAINED
            found[Cell(grid.seeds[0] if free else seed, 1.0 if free else share, variant)] = None
    return list(found)
