"""The run configuration: one YAML file in, one resolved copy beside every result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from training.corpus.dke import DkeConfig
from training.corpus.icp import IcpConfig
from training.corpus.mining import DuckDbConfig
from training.corpus.rcd import RcdConfig
from training.objectives.mlm import MlmConfig


class ConfigError(Exception):
    """A configuration file is wrong; the message names file, field and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RenderConfig(_Strict):
    """Token budgets of a pair. Fields without a budget of their own take that of their role."""

    max_tokens: int = 128
    query_budget: int = 24
    field_budgets: dict[str, int] = {}
    role_budgets: dict[str, int] = {"title": 12, "keywords": 12, "category": 8, "body": 16, "attribute": 6}


class OptimiserConfig(_Strict):
    """AdamW with warm-up and linear decay over a fixed token budget, so runs compare at equal cost."""

    tokens: int = Field(gt=0)
    """Real tokens seen in all."""
    learning_rate: float = 5e-5
    new_weights_factor: float = 10.0
    """Weights that start from nothing (heads) learn this many times faster."""
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip_norm: float = 1.0


class PretrainConfig(_Strict):
    """Continual pre-training on the mixture of the three corpora."""

    optimiser: OptimiserConfig
    batch_tokens: int = 2048
    max_document_tokens: int = 128
    weights: dict[str, float] = {"dke": 1.0, "icp": 1.0, "rcd": 1.0}
    dke: DkeConfig = DkeConfig()
    icp: IcpConfig = IcpConfig()
    rcd: RcdConfig = RcdConfig()
    duckdb: DuckDbConfig = DuckDbConfig()
    """Memory, threads and spill folder of click-log mining."""
    mlm: MlmConfig = MlmConfig()

    @field_validator("weights")
    @classmethod
    def _known_corpora(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := weights.keys() - {"dke", "icp", "rcd"}:
            raise ValueError(f"{sorted(unknown)} are no corpora; there are dke, icp, rcd")
        return weights


class SftConfig(_Strict):
    """Supervised fine-tuning on labels.train to one logit."""

    optimiser: OptimiserConfig
    queries_per_batch: int = 2
    items_per_query: int = 12
    listwise_weight: float = 0.3
    """Share of the softmax loss over the items of one query; the rest is cross-entropy on graded targets."""


class RunConfig(_Strict):
    """Everything a run depends on but the data and the code."""

    bundle: str
    data: Path | None = None
    seed: int = 0
    family: Literal["encoder"] = "encoder"
    dropout: float = 0.0
    """Ours: at these budgets no weight is seen twice in the same state, and without it a CPU step halves."""
    start_from_cosine: bool = True
    """False: the logit comes from [CLS] alone, as in a plain cross-encoder; for comparison."""
    render: RenderConfig = RenderConfig()
    pretrain: PretrainConfig
    sft: SftConfig
    sft_alone: bool = True
    """Train the same SFT from the start weights too, so that the report shows what pre-training adds."""
    promote: bool = True
    """Point the alias `production` at the new version."""


def load_config(path: Path) -> RunConfig:
    """Raises ConfigError naming the file and each wrong field."""
    try:
        return RunConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; shipped configs lie in training/configs/") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {found}") from error
