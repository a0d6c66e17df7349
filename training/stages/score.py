"""Score a pair file offline with a bundle: the encoding and the graph that the service uses."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from model_repo.bundle import Bundle
from model_repo.runtime import OnnxScorer, score_all
from training.data.dataset import load_dataset
from training.data.pairs import SCORE_COLUMNS, read_labels
from training.rendering import PairSource


def score_file(bundle_dir: Path, data: Path, pairs_file: Path, out: Path) -> int:
    """Write `out` (tab-separated query, item_id, label, score) and return the number of pairs.

    `score` is the calibrated relevance. Raises BundleError, or DataError naming file and line.
    """
    bundle = Bundle.load(bundle_dir)
    dataset = load_dataset(data)
    pairs = list(read_labels(pairs_file, dataset.items.keys(), dataset.card.labels.scale, dataset.log))
    source = PairSource(dataset, bundle.encoder)
    logits = score_all(OnnxScorer(bundle), source.encode(pairs))
    relevance = bundle.calibration.relevance(logits)
    rows = [(p.query, p.item_id, p.label, f"{s:.9f}") for p, s in zip(pairs, relevance, strict=True)]
    _write(out, rows)
    return len(rows)


def _write(out: Path, rows: list[tuple[str, str, int, str]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            # No quoting: label files have none, and a query with a quotation mark must come back unchanged.
            file.writelines("\t".join(map(str, row)) + "\n" for row in [SCORE_COLUMNS, *rows])
        os.chmod(scratch, 0o644)
        os.replace(scratch, out)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
