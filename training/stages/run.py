"""The whole recipe, read downwards: corpora, pre-training, fine-tuning, evaluation, bundle, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from model_repo.bundle import Bundle, BundleError, read_manifest, replace_text
from model_repo.encoding import PairEncoder
from model_repo.repository import Repository
from training.config import RunConfig
from training.data.dataset import Dataset, load_dataset
from training.evaluation.calibrate import fit_calibration
from training.evaluation.scores import SplitScores
from training.export.exporter import Trained, export_bundle
from training.families import Family, check_lengths, lengths_of, open_family, pair_encoder
from training.loop import train
from training.models.base import RelevanceModel
from training.models.embedding import MINILM, MiniLmEmbedder, open_embedder
from training.models.glm.folder import save_glm
from training.models.glm.relevance import RelevanceGlm
from training.rendering import PairSource
from training.report.render import write_report
from training.stages.artifacts import RunFolder, code_commit
from training.stages.early_stop import EarlyStop
from training.stages.evaluate import baseline_scores, check_labels, model_scores, summarise
from training.stages.names import PRETRAIN, RECIPE, SFT_ALONE
from training.stages.pretrain import Corpora, MixtureStream, build_corpora, pretraining_loss
from training.stages.sft import QueryStream, relevance_loss

_console = Console()


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every stage of one run shares."""

    config: RunConfig
    dataset: Dataset
    family: Family
    encoder: PairEncoder
    source: PairSource
    embed: MiniLmEmbedder
    folder: RunFolder

    def model(self) -> RelevanceModel:
        """A model at its start weights; the seed fixes the new ones."""
        torch.manual_seed(self.config.seed)
        return self.family.model(segments=self.encoder.spec.segment_count, dropout=self.config.dropout)

    def item_vectors(self, item_ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Items as unit vectors of the start checkpoint's embedding model."""
        return self.embed([self.dataset.item_text(item_id) for item_id in item_ids])


def open_workshop(config: RunConfig, data: Path | Dataset, out: Path) -> Workshop:
    """Read the data set leniently (drops are counted in the report) and prepare the rendering.

    Raises ConfigError when `out` was made from another configuration or other data, and when the start model has
    fewer positions than the configuration asks for.
    """
    dataset = data if isinstance(data, Dataset) else load_dataset(data, strict=False)
    _warn_of_unknown_fields(config, dataset)
    family = open_family(config)
    check_lengths(family.start_weights, family.positions(), lengths_of(config))
    encoder = pair_encoder(family, dataset, config.render)
    source = PairSource(dataset, encoder)
    folder = RunFolder(out, config)
    folder.bind(dataset.root)
    return Workshop(config, dataset, family, encoder, source, MiniLmEmbedder(), folder)


def _warn_of_unknown_fields(config: RunConfig, dataset: Dataset) -> None:
    """Only a warning: one configuration may serve several data sets."""
    names = [field.name for field in dataset.card.item_fields]
    for unknown in config.render.field_budgets.keys() - set(names):
        _console.print(
            f"render.field_budgets: {unknown!r} is no field of {dataset.card.name}, its budget is ignored; "
            f"there are {', '.join(names)}",
            style="yellow",
            markup=False,
        )


def run_recipe(shop: Workshop, repository: Repository, *, command: str) -> Bundle:
    """Run every stage that has not finished in this run folder; return the exported bundle.

    Raises DataError for dev or test without both kinds of pairs, ConfigError when another process trains in the
    folder.
    """
    with shop.folder.training():
        return _run_recipe(shop, repository, command=command)


def _run_recipe(shop: Workshop, repository: Repository, *, command: str) -> Bundle:
    done = shop.folder.result("export")
    if done and (repository.root / done["name"] / done["version"]).is_dir():
        bundle = Bundle.load(repository.root / done["name"] / done["version"])
        _console.print(f"[dim]{shop.folder.root} is complete; nothing to train[/]")
        write_report(shop.folder.root, bundle.manifest)
        return bundle
    check_labels(shop.dataset)
    pretrain(shop)
    fine_tune_all(shop)
    bundle = _exported_before(shop, repository) or _export(shop, repository, command=command)
    shop.folder.finish("export", {"name": bundle.name, "version": bundle.version})
    write_report(shop.folder.root, bundle.manifest)
    return bundle


def _export(shop: Workshop, repository: Repository, *, command: str) -> Bundle:
    trained, results = evaluate(shop)
    return export_bundle(
        trained,
        shop.dataset,
        repository,
        shop.config.bundle,
        provenance=_provenance(shop, command),
        metrics=results["card"],
        promote=shop.config.promote,
    )


def _exported_before(shop: Workshop, repository: Repository) -> Bundle | None:
    """The version that this run wrote before it was killed, promoted: the run folder's metrics are on its card."""
    results, config = shop.folder.result("metrics"), shop.config.model_dump(mode="json")
    for version in reversed(repository.versions(shop.config.bundle) if results else []):
        try:
            manifest = read_manifest(repository.root / shop.config.bundle / version)
        except BundleError:  # another's
            continue
        if manifest.metrics == results["card"] and manifest.provenance.config == config:
            if shop.config.promote:
                repository.promote(manifest.name, version)
            return Bundle.load(repository.root / shop.config.bundle / version)
    return None


def write_corpora(shop: Workshop) -> Path:
    """Write `corpora/<name>.jsonl`, one document a line, to look at; return the folder."""
    corpora = _corpora(shop)
    folder = shop.folder.root / "corpora"
    folder.mkdir(exist_ok=True)
    for name, documents in corpora.items():
        lines = (json.dumps(asdict(document), ensure_ascii=False) + "\n" for document in documents)
        replace_text(folder / f"{name}.jsonl", "".join(lines))
    return folder


def _corpora(shop: Workshop) -> Corpora:
    config = shop.config.pretrain
    # The baseline's embedder remembers what it has embedded.
    embed = shop.embed if config.icp.embedder == MINILM else open_embedder(config.icp.embedder)
    corpora, report = build_corpora(shop.dataset, config, embed=embed, seed=shop.config.seed)
    _console.print(f"corpora: {', '.join(f'{name} {len(documents)}' for name, documents in corpora.items())}")
    shop.folder.finish("corpora", report.summary())
    return corpora


def pretrain(shop: Workshop) -> None:
    """Build the corpora and continue pre-training on them."""
    with shop.folder.training():
        if shop.folder.result(PRETRAIN) is None:
            _pretrain(shop)


def _pretrain(shop: Workshop) -> None:
    config = shop.config.pretrain
    corpora = _corpora(shop)
    model = shop.model()
    stream = MixtureStream(
        corpora,
        shop.encoder,
        shop.family,
        config,
        items=shop.dataset.item_fields(),
        vectors=shop.item_vectors,
        seed=shop.config.seed,
    )
    curve = train(
        model,
        stream,
        pretraining_loss(config),
        config.optimiser,
        title="continual pre-training",
        journal=shop.folder.journal(PRETRAIN),
    )
    if isinstance(model, RelevanceGlm):
        save_glm(model.glm, shop.family.tokenizer, shop.folder.root / "checkpoint")
    shop.folder.finish(PRETRAIN, {"seconds": curve[-1]["seconds"], "curve": curve}, model)


def fine_tune_all(shop: Workshop) -> None:
    """SFT of the recipe, and where configured of the start weights too."""
    fine_tune(shop, RECIPE, start=shop.folder)
    if shop.config.sft_alone:
        fine_tune(shop, SFT_ALONE, start=None)


def fine_tune(shop: Workshop, name: str, *, start: RunFolder | None) -> None:
    """SFT from the weights pre-trained in `start`, or from the start weights: same data, order and budget."""
    with shop.folder.training():
        if shop.folder.result(name) is None:
            _fine_tune(shop, name, start)


def _fine_tune(shop: Workshop, name: str, start: RunFolder | None) -> None:
    model = shop.model()
    if start:
        start.load_weights(PRETRAIN, model)
    config, scale = shop.config.sft, shop.dataset.card.labels
    stream = QueryStream(shop.dataset.labels("train"), shop.source, scale, config, seed=shop.config.seed)
    watch = EarlyStop(shop.dataset.labels("dev"), shop.source, scale, config) if config.evaluations else None
    curve = train(
        model,
        stream,
        relevance_loss(config),
        config.optimiser,
        title=f"fine-tuning ({name})",
        journal=shop.folder.journal(name),
        watch=watch,
    )
    if watch:
        watch.keep_best(model)
    model.round_to_half()
    result = {"seconds": curve[-1]["seconds"], "curve": curve, "dev": watch.history if watch else []}
    shop.folder.finish(name, result, model)


def evaluate(shop: Workshop) -> tuple[Trained, dict[str, Any]]:
    """Score dev and test with every model and baseline; dev chooses thresholds, test is only reported."""
    model = shop.model()
    scores: dict[str, SplitScores] = {}
    # The recipe last: its weights are the ones that stay in the model.
    for name in [*([SFT_ALONE] if shop.config.sft_alone else []), RECIPE]:
        shop.folder.load_weights(name, model)
        scores = {name: model_scores(model, shop.dataset, shop.source, title=name)} | scores
    labels = np.array([pair.label for pair in shop.dataset.labels("dev")], dtype=np.int64)
    calibration = fit_calibration(scores[RECIPE].dev, labels, shop.dataset.card.labels)
    scores |= baseline_scores(shop.dataset, shop.config, shop.embed)
    control = SFT_ALONE if SFT_ALONE in scores else None
    results = summarise(shop.dataset, scores, calibration, recipe=RECIPE, control=control)
    results["dropped"] = dict(shop.dataset.log.counts)
    for reason, count in results["dropped"].items():
        _console.print(f"dropped {count:,} rows of the data set: {reason}")
    shop.folder.finish("metrics", results)
    return Trained(model, shop.encoder, shop.family.tokenizer, calibration), results


def _provenance(shop: Workshop, command: str) -> dict[str, Any]:
    return {
        "command": command,
        "seed": shop.config.seed,
        "commit": code_commit(),
        "start_weights": shop.family.start_weights,
        "dataset": shop.dataset.card.name,
        "dataset_licence": shop.dataset.card.licence,
        "config": shop.config.model_dump(mode="json"),
    }
