"""The run configuration: one YAML file in, one resolved copy beside every result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from model_repo.manifest import NAME
from training.corpus.dke import DkeConfig
from training.corpus.icp import IcpConfig
from training.corpus.mining import DuckDbConfig
from training.corpus.rcd import RcdConfig
from training.errors import UserError
from training.objectives.blank import BlankConfig
from training.objectives.matching import MatchingConfig
from training.objectives.mlm import MlmConfig

_Model = TypeVar("_Model", bound=BaseModel)
_Beta = Annotated[float, Field(ge=0, lt=1)]
_Budget = Annotated[int, Field(ge=1)]


class ConfigError(UserError):
    """A configuration file is wrong; the message names file, field and what is allowed."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RenderConfig(_Strict):
    """Token budgets of a pair. Fields without a budget of their own take that of their role."""

    max_tokens: _Budget = 128
    query_budget: _Budget = 24
    field_budgets: dict[str, _Budget] = {}
    role_budgets: dict[str, _Budget] = {
        "title": 12,
        "keywords": 12,
        "category": 8,
        "body": 16,
        "attribute": 6,
    }


class OptimiserConfig(_Strict):
    """AdamW with warm-up and linear decay over a fixed token budget, so runs compare at equal cost."""

    tokens: int = Field(gt=0)
    """Real tokens seen in all."""
    learning_rate: float = Field(default=5e-5, gt=0, allow_inf_nan=False)
    new_weights_factor: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Weights that start from nothing (heads) learn this many times faster."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer further from the output learns this many times slower."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    schedule: Literal["linear", "cosine"] = "linear"
    final_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak rate at which the schedule ends (GLM: cosine to 0.1)."""
    betas: tuple[_Beta, _Beta] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0, allow_inf_nan=False)
    clip_norm: float = Field(default=1.0, gt=0)
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the step; "no" is fp32."""
    gradient_checkpointing: bool = False
    """Keep only the input of each layer and compute the rest twice: memory for time."""


class PretrainConfig(_Strict):
    """Continual pre-training on the mixture of the three corpora, each read by several objectives."""

    optimiser: OptimiserConfig
    batch_tokens: int = Field(default=2048, ge=1)
    max_document_tokens: int = Field(default=128, ge=8)
    weights: dict[str, float] = {"dke": 1.0, "icp": 1.0, "rcd": 1.0}
    """How often a batch comes from each corpus; zero switches its builder off."""
    objectives: dict[str, float] = {"contrast": 1.0, "joint": 1.0}
    """How often a batch is read by each objective: language (masked LM or blank infilling), contrast, joint."""
    dke: DkeConfig = DkeConfig()
    icp: IcpConfig = IcpConfig()
    rcd: RcdConfig = RcdConfig()
    duckdb: DuckDbConfig = DuckDbConfig()
    """Memory, threads and spill folder of click-log mining."""
    mlm: MlmConfig = MlmConfig()
    blank: BlankConfig = BlankConfig()
    matching: MatchingConfig = MatchingConfig()

    @field_validator("weights")
    @classmethod
    def _known_corpora(cls, weights: dict[str, float]) -> dict[str, float]:
        return _known(weights, ("dke", "icp", "rcd"), "corpora")

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, weights: dict[str, float]) -> dict[str, float]:
        return _known(weights, ("language", "contrast", "joint"), "objectives")


def _known(weights: dict[str, float], names: tuple[str, ...], kind: str) -> dict[str, float]:
    if unknown := weights.keys() - set(names):
        raise ValueError(f"{sorted(unknown)} are no {kind}; there are {', '.join(names)}")
    if min(weights.values(), default=0) < 0 or sum(weights.values()) <= 0:
        raise ValueError(f"{weights}: weights must not be negative, and one must be above zero")
    return weights


class SftConfig(_Strict):
    """Supervised fine-tuning on labels.train to one logit."""

    optimiser: OptimiserConfig
    queries_per_batch: int = Field(default=2, ge=1)
    items_per_query: int = Field(default=12, ge=1)
    listwise_weight: float = Field(default=0.3, ge=0)
    """Factor of the softmax loss over the items of one query, added to the cross-entropy."""
    margin_weight: float = Field(default=0.0, ge=0)
    """Factor of a hinge on every two items of a query with different grades."""
    margin: float = 1.0
    """Logits by which the better item leads before the hinge is content."""
    targets: Literal["graded", "binary"] = "graded"
    """graded: grades map to probabilities on either side of one half; binary: 1 from `relevant_from` up."""
    positive_weight: float = Field(default=1.0, gt=0)
    """Factor of the cross-entropy of relevant pairs; above 1 where they are rare."""
    label_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the labelled queries that are used, drawn by the seed: for learning curves."""
    evaluations: int = Field(default=0, ge=0)
    """How often dev is scored on the way; the best weights are kept (0: never, the last weights stay)."""
    patience: int = Field(default=2, ge=1)
    """Evaluations without a better one after which training stops."""
    dev_pairs: int = Field(default=1000, ge=1)
    """Most dev pairs of such an evaluation, whole queries."""


class RunConfig(_Strict):
    """Everything a run depends on but the data and the code."""

    bundle: str = Field(pattern=NAME)
    data: Path | None = None
    seed: int = Field(default=0, ge=0)
    family: Literal["encoder", "glm"] = "encoder"
    start: str | None = None
    """Checkpoint folder of the start weights; default all-MiniLM-L6-v2, for glm a fresh glm-small."""
    label_words: tuple[str, str] = ("yes", "no")
    """GLM's cloze answers for relevant and not, each one token."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
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
    machine: str | None = None
    """Machine that `--dry-run` plans for where `--machine` names none; null: this one."""


def load_config(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """Raises ConfigError naming the file and each wrong field; `changes` as in `read_yaml`."""
    return read_yaml(path, RunConfig, changes)


def read_yaml(path: Path, model: type[_Model], changes: Sequence[str] = ()) -> _Model:
    """A YAML file as `model`, after `changes` such as `sft.optimiser.tokens=200000`.

    Raises ConfigError naming the file and each wrong field.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for change in changes:
            _apply(raw, change)
        return model.model_validate(raw)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; shipped configs lie in training/configs/") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}; name a YAML file in UTF-8") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {found}") from error


def _apply(raw: Any, change: str) -> None:
    """Write the YAML value of `a.b=value` to its place. Raises ConfigError where there is none."""
    place, equals, value = change.partition("=")
    *folders, last = place.split(".")
    for name in folders:
        raw = raw.setdefault(name, {}) if isinstance(raw, dict) else None
    if not equals or not isinstance(raw, dict):
        raise ConfigError(
            f"{change!r} changes nothing; write field=value, such as sft.optimiser.tokens=200000"
        )
    try:
        raw[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{change!r}: the value is not YAML; quote it: {error}") from error
