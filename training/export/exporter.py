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
from training.export.bert_graph import INPUTS, MIN_ONNXRUNTIME, OPSET, write_bert_graph
from training.export.card import model_card
from training.export.golden_pairs import choose_golden
from training.models.base import RelevanceModel
from training.models.encoder import RelevanceEncoder

MAX_RELEVANCE_DIFFERENCE = 2e-3
_GRAPH_FILE = "model.onnx"


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

    Raises ParityError beyond |relevance difference| 2e-3 against fp32 PyTorch; the repository is then unchanged.
    """
    model = trained.model
    if not isinstance(model, RelevanceEncoder):
        raise ParityError(f"{type(model).__name__}: only graphs of the encoder family are written")
    version = repository.next_version(name)
    golden = _record_golden(trained, dataset)
    with writing_version(repository.root / name, version) as folder:
        write_bert_graph(model, folder / _GRAPH_FILE)
        trained.tokenizer.save(str(folder / TOKENIZER))
        write_golden(folder / GOLDEN, golden)
        files = {n: sha256(folder / n) for n in (_GRAPH_FILE, TOKENIZER, GOLDEN)}
        manifest = _manifest(
            trained, name, version, files, _measure(folder, trained, golden, files), provenance, metrics
        )
        (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
        files["README.md"] = sha256(folder / "README.md")
        manifest = manifest.model_copy(update={"files": files})
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    replace_text(repository.root / name / "config.pbtxt", config_pbtxt(name, INPUTS))
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


def _manifest(
    trained: Trained,
    name: str,
    version: str,
    files: dict[str, str],
    agreement: Agreement,
    provenance: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> Manifest:
    graph = Graph(
        file=_GRAPH_FILE,
        precision="fp32",
        opset=OPSET,
        min_onnxruntime=MIN_ONNXRUNTIME,
        inputs=INPUTS,
        agreement=agreement,
    )
    graphs = {"fp32": graph}
    return Manifest(
        name=name,
        version=version,
        family="encoder",
        spec=trained.encoder.spec,
        calibration=trained.calibration,
        graphs=graphs,
        files=files,
        fingerprint=fingerprint(trained.encoder.spec, trained.calibration, graphs, files),
        provenance=Provenance(created=datetime.now(UTC).isoformat(timespec="seconds"), **provenance),
        metrics=dict(metrics),
    )


def _measure(
    folder: Path, trained: Trained, golden: Sequence[GoldenPair], files: dict[str, str]
) -> Agreement:
    """Compare the written graph with the recorded logits, in one batch and alone."""
    scorer = OnnxScorer.from_file(folder / _GRAPH_FILE, "fp32", INPUTS, trained.encoder.spec.special_ids.pad)
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
            f"graph and PyTorch differ by {agreement.max_abs_relevance:.4f} in relevance on query "
            f"{worst.query!r} (at most {MAX_RELEVANCE_DIFFERENCE}); nothing was exported"
        )
    return agreement
