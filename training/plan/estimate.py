"""The plan of a run, read downwards: corpora, a survey of the real batches, then steps, memory and time a stage."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_repo.encoding import PairEncoder
from training.config import OptimiserConfig, RunConfig
from training.data.dataset import Dataset, load_dataset
from training.families import Family, check_lengths, lengths_of, pair_encoder
from training.models.embedding import Embedder
from training.plan.anatomy import Anatomy
from training.plan.arithmetic import step_flops
from training.plan.at_hand import anatomy_of, open_filter, open_start
from training.plan.batches import Shape, survey
from training.plan.machines import HERE, Machine, open_machine
from training.plan.memory import RESERVE, Memory, step_memory
from training.plan.remedies import Knobs, remedies
from training.rendering import PairSource
from training.stages.pretrain import Corpora, MixtureStream, build_corpora
from training.stages.sft import QueryStream, share_of_queries

_COUNTED_PAIRS = 20_000
_CHECKPOINT_BYTES = 12
_WEIGHT_BYTES = 4


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """`passes`: how often the budget reads this corpus, by its weight among those that have documents."""

    name: str
    documents: int
    tokens: int
    dropped: dict[str, int]
    passes: float


@dataclass(frozen=True, slots=True)
class StagePlan:
    """`epochs`: budget over tokens there are. `step_tokens` are real ones, `padding` the share computed beside them.

    `memory` is that of `largest`, the hungriest of the drawn steps.
    """

    name: str
    tokens: int
    epochs: float
    step_tokens: float
    padding: float
    steps: int
    flops: float
    seconds: float
    largest: Shape
    memory: Memory
    fits: bool
    remedies: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Bytes, FLOP, seconds. `missing` says what was not at hand and what stood in for it."""

    bundle: str
    data: str
    dataset: str
    machine: Machine
    mfu: float
    memory_limit: int
    model: Anatomy
    tokenizer: str
    icp_embedder: str
    missing: tuple[str, ...]
    corpora: tuple[CorpusPlan, ...]
    stages: tuple[StagePlan, ...]
    disk: int

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"seconds": self.seconds, "fits": all(stage.fits for stage in self.stages)}


def plan_run(
    config: RunConfig, data: Path, *, machine: str | None = None, mfu: float | None = None, draws: int = 32
) -> RunPlan:
    """Build the corpora, draw batches, and count. Trains nothing, and makes no weight of the model.

    `machine` defaults to the config's, then to this one; `mfu` to what is assumed for the machine. `draws` batches of
    each stage are looked at. Raises DataError for the data set and ConfigError for the rest.
    """
    start = open_start(config)
    stages = [config.pretrain.optimiser, config.sft.optimiser]
    target = open_machine(machine or config.machine or HERE, {stage.precision for stage in stages})
    dataset = load_dataset(data, strict=False)
    encoder = pair_encoder(start.family, dataset, config.render)
    anatomy = anatomy_of(config, start.family, segments=encoder.spec.segment_count)
    check_lengths(anatomy.name, anatomy.positions, lengths_of(config))
    embed, embedder, said = open_filter(config.pretrain.icp.embedder)
    share = target.mfu(anatomy.hidden) if mfu is None else mfu
    bench = _Bench(config, anatomy, target, share, draws)
    corpora, counted = _corpora(config, dataset, start.family, encoder, embed)
    return RunPlan(
        bundle=config.bundle,
        data=str(data),
        dataset=dataset.card.name,
        machine=target,
        mfu=share,
        memory_limit=bench.limit,
        model=anatomy,
        tokenizer=start.tokenizer,
        icp_embedder=embedder,
        missing=(*start.missing, *([said] if said else [])),
        corpora=counted,
        stages=(
            _pretraining(
                bench, dataset, corpora, sum(corpus.tokens for corpus in counted), start.family, encoder
            ),
            *_fine_tuning(bench, dataset, encoder),
        ),
        disk=_disk(config, anatomy),
    )


@dataclass(frozen=True, slots=True)
class _Bench:
    """What every stage is measured on."""

    config: RunConfig
    anatomy: Anatomy
    machine: Machine
    mfu: float
    draws: int

    @property
    def limit(self) -> int:
        return int(self.machine.memory * (1 - RESERVE))

    def stage(
        self,
        name: str,
        shapes: Sequence[Shape],
        optimiser: OptimiserConfig,
        knobs: Knobs,
        *,
        corpus_tokens: float,
    ) -> StagePlan:
        checkpointing = optimiser.gradient_checkpointing
        real = sum(shape.tokens for shape in shapes)
        spent = sum(step_flops(self.anatomy, shape, checkpointing=checkpointing) for shape in shapes)
        flops = spent / real * optimiser.tokens
        largest, memory = max(
            ((shape, self.memory(shape, optimiser)) for shape in shapes), key=lambda pair: pair[1].total
        )
        fits = memory.total <= self.limit
        advice = (
            () if fits else remedies(self.anatomy, shapes, optimiser, knobs, self.limit, self.config.dropout)
        )
        return StagePlan(
            name=name,
            tokens=optimiser.tokens,
            epochs=optimiser.tokens / max(corpus_tokens, 1),
            step_tokens=real / len(shapes),
            padding=1 - real / sum(shape.padded for shape in shapes),
            steps=-(-optimiser.tokens * len(shapes) // real),
            flops=flops,
            seconds=flops / (self.machine.peaks[optimiser.precision] * self.mfu),
            largest=largest,
            memory=memory,
            fits=fits,
            remedies=advice,
        )

    def memory(self, shape: Shape, optimiser: OptimiserConfig) -> Memory:
        return step_memory(self.anatomy, shape, optimiser, dropout=self.config.dropout)


def _corpora(
    config: RunConfig, dataset: Dataset, family: Family, encoder: PairEncoder, embed: Embedder
) -> tuple[Corpora, tuple[CorpusPlan, ...]]:
    recipe = config.pretrain
    corpora, report = build_corpora(dataset, recipe, embed=embed, seed=config.seed)
    summary = report.summary()
    weights = {name: weight for name, weight in recipe.weights.items() if name in corpora}
    counted = []
    for name in (name for name, weight in recipe.weights.items() if weight > 0):
        rows = family.rows(corpora.get(name, []), encoder, max_tokens=recipe.max_document_tokens)
        tokens = sum(map(len, rows))
        share = weights.get(name, 0) / (sum(weights.values()) or 1)
        passes = recipe.optimiser.tokens * share / tokens if tokens else 0.0
        counted.append(CorpusPlan(name, len(rows), tokens, summary.get(name, {}).get("dropped", {}), passes))
    return corpora, tuple(counted)


def _pretraining(
    bench: _Bench,
    dataset: Dataset,
    corpora: Corpora,
    corpus_tokens: int,
    family: Family,
    encoder: PairEncoder,
) -> StagePlan:
    config = bench.config.pretrain
    stream = MixtureStream(
        corpora,
        encoder,
        family,
        config,
        items=dataset.item_fields(),
        vectors=_anywhere,
        seed=bench.config.seed,
    )
    knobs: Mapping[str, tuple[str, int]] = {
        "contrast": ("pretrain.matching.contrast_tokens", config.matching.contrast_tokens),
    }
    default = ("pretrain.batch_tokens", config.batch_tokens)
    shapes = survey(stream, draws=bench.draws)
    return bench.stage(
        "pre-training",
        shapes,
        config.optimiser,
        Knobs("pretrain", knobs, default),
        corpus_tokens=corpus_tokens,
    )


def _fine_tuning(bench: _Bench, dataset: Dataset, encoder: PairEncoder) -> list[StagePlan]:
    """SFT, and once more from the start weights where the config compares them."""
    config, seed = bench.config.sft, bench.config.seed
    source = PairSource(dataset, encoder)
    labels = dataset.labels("train")
    stream = QueryStream(labels, source, dataset.card.labels, config, seed=seed)
    shapes = survey(stream, draws=bench.draws)
    used = share_of_queries(labels, config.label_share, seed=seed)
    some = random.Random(seed).sample(used, min(len(used), _COUNTED_PAIRS))
    there = float(np.mean(source.encode(some).lengths)) * len(used)
    knobs = Knobs("sft", {}, ("sft.queries_per_batch", config.queries_per_batch))
    names = ["fine-tuning", *(["fine-tuning alone"] if bench.config.sft_alone else [])]
    return [bench.stage(name, shapes, config.optimiser, knobs, corpus_tokens=there) for name in names]


def _anywhere(texts: Sequence[str]) -> np.ndarray:
    """Vectors that mean nothing: near negatives are chosen by them, and which ones does not change any count."""
    return np.random.default_rng(0).standard_normal((len(texts), 8), dtype=np.float32)


def _disk(config: RunConfig, anatomy: Anatomy) -> int:
    """The run folder at its fullest: fp32 weights of each stage, and two resume files while one replaces the other."""
    kept = 2 + config.sft_alone + (config.family == "glm")
    return (kept * _WEIGHT_BYTES + 2 * _CHECKPOINT_BYTES) * anatomy.parameters
