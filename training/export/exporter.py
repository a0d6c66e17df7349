"""Write a bundle version from a trained model, and refuse one that drifts from PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model_repo.bundle import (
    GOLDEN,
    MANIFEST,
    TOKENIZER,
    Bundle,
    replace_text,
    sha256,
    writing_version,
)
from model_repo.calibration import Calibration
from model_repo.encoding import EncodedPairs, PairEncoder
from model_repo.golden import GoldenPair, write_golden
from model_repo.manifest import Agreement, Graph, Manifest, Provenance, fingerprint
from model_repo.repository import Repository
from model_repo.runtime import OnnxScorer
from model_repo.triton import config_pbtxt
from training.data.dataset import Dataset
from training.errors import UserError
from training.evaluation.predict import predict
from training.export.card import model_card
from training.export.golden_pairs import choose_golden
from training.export.graph import MIN_ONNXRUNTIME, OPSET, Arithmetic
from training.export.weights import WEIGHT_FILE
from training.export.writer import GRAPH_FILES, drawing_of, write_graphs
from training.models.base import RelevanceModel

MAX_RELEVANCE_DIFFERENCE = 2e-3


class ParityError(UserError):
    """The graph does not score as the PyTorch model does; nothing was written."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What training hands over. `model` is already rounded to half precision."""

    model: RelevanceModel
    encoder: PairEncoder
    tokenizer: Tokenizer
    calibration: Calibration


def export_bundle(
    trained: Trained,
    dataset: Dataset,
    repository: Repository,
    name: str,
    *,
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any],
    promote: bool,
) -> Bundle:
    """Write the next version of `name`, verify it as the service will, and return it.

    Raises ParityError beyond |relevance difference| 2e-3 against fp32 PyTorch in any precision, and
    UnsupportedBackboneError for a model that has no graph; the repository is then unchanged.
    """
    drawing = drawing_of(trained.model)
    version = repository.next_version(name)
    golden = _record_golden(trained, dataset)
    with writing_version(repository.root / name, version) as folder:
        write_graphs(drawing, folder)
        trained.tokenizer.save(str(folder / TOKENIZER))
        write_golden(folder / GOLDEN, golden)
        files = {n: sha256(folder / n) for n in (*GRAPH_FILES.values(), WEIGHT_FILE, TOKENIZER, GOLDEN)}
        graphs: dict[str, Graph] = {
            p: _graph(folder, p, drawing.inputs, trained, golden) for p in GRAPH_FILES
        }
        manifest = Manifest(
            name=name,
            version=version,
            family=drawing.family,
            spec=trained.encoder.spec,
            calibration=trained.calibration,
            graphs=graphs,
            files=files,
            fingerprint=fingerprint(trained.encoder.spec, trained.calibration, graphs, files),
            provenance=Provenance(created=datetime.now(UTC).isoformat(timespec="seconds"), **provenance),
            metrics=dict(metrics),
        )
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        files["README.md"] = sha256(folder / "README.md")
        manifest = manifest.model_copy(update={"files": files})
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    replace_text(repository.root / name / "config.pbtxt", config_pbtxt(name, drawing.inputs))
    bundle = Bundle.load(repository.root / name / version)
    if promote:
        repository.promote(name, version)
    return bundle


def _record_golden(trained: Trained, dataset: Dataset) -> list[GoldenPair]:
    """Golden pairs with the logits of this very model, one by one, unpadded."""
    chosen = choose_golden(dataset, trained.encoder)
    pairs = [trained.encoder.encode(pair.query, [pair.fields]) for pair in chosen]
    pad = trained.encoder.spec.special_ids.pad
    logits = [float(predict(trained.model.cpu(), one, pad_id=pad, title="", quiet=True)[0]) for one in pairs]
    return [pair.model_copy(update={"logit": z}) for pair, z in zip(chosen, logits, strict=True)]


def _graph(
    folder: Path,
    precision: Arithmetic,
    inputs: tuple[str, ...],
    trained: Trained,
    golden: Sequence[GoldenPair],
) -> Graph:
    scorer = OnnxScorer.from_file(
        folder / GRAPH_FILES[precision], precision, inputs, trained.encoder.spec.special_ids.pad
    )
    return Graph(
        file=GRAPH_FILES[precision],
        precision=precision,
        opset=OPSET,
        min_onnxruntime=MIN_ONNXRUNTIME,
        inputs=inputs,
        weight_files=(WEIGHT_FILE,),
        agreement=_measure(scorer, trained, golden),
    )


def _measure(scorer: OnnxScorer, trained: Trained, golden: Sequence[GoldenPair]) -> Agreement:
    """Compare a written graph with the recorded logits, in one batch and alone."""
    pairs = EncodedPairs.concat([trained.encoder.encode(pair.query, [pair.fields]) for pair in golden])
    expected = np.array([pair.logit for pair in golden])
    alone = np.concatenate([scorer.logits(pairs.take([row])) for row in range(len(pairs))])
    both = np.stack([scorer.logits(pairs), alone])
    diff = np.abs(both - expected)
    relevance = np.abs(trained.calibration.relevance(both) - trained.calibration.relevance(expected))
    agreement = Agreement(
        pairs=len(golden),
        max_abs_logit=float(diff.max()),
        mean_abs_logit=float(diff.mean()),
        max_abs_relevance=float(relevance.max()),
        engine=scorer.numerics,
    )
    if not agreement.max_abs_relevance <= MAX_RELEVANCE_DIFFERENCE:
        worst = golden[int(np.nanargmax(relevance.max(0)))]
        raise ParityError(
            f"{scorer.numerics} graph and PyTorch differ by {agreement.max_abs_relevance:.4f} in relevance on query "
            f"{worst.query!r} (at most {MAX_RELEVANCE_DIFFERENCE}); nothing was exported"
        )
    return agreement
