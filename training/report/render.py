"""Write `report.html` from what the stages left in a run folder; it opens without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from model_repo.bundle import replace_text
from model_repo.manifest import Manifest
from training.evaluation.slices import STYLE
from training.report import plots
from training.stages.names import PRETRAIN, RECIPE, SFT_ALONE

_CURVES = {
    PRETRAIN: "continual pre-training",
    RECIPE: "fine-tuning",
    SFT_ALONE: "fine-tuning, SFT alone",
}
METRICS = {"auc": "AUC", "f1": "F1", "accuracy": "accuracy", "ndcg10": "nDCG@10", "mrr": "MRR"}


def write_report(run: Path, manifest: Manifest) -> Path:
    """Render the report of a finished run and return its path."""
    results = _read(run, "metrics")
    stages = {
        title: _read(run, name)["curve"] for name, title in _CURVES.items() if (run / f"{name}.json").exists()
    }
    shown = {"auc": "AUC on the test split", "ndcg10": "nDCG@10 on the test split"}
    # Query styles are in the table alone: bars of thirteen slices are too thin to read.
    charted = {
        name: {label: measured for label, measured in slices.items() if not label.startswith(STYLE)}
        for name, slices in results["models"].items()
    }
    environment = Environment(
        loader=PackageLoader("training", "report"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        manifest=manifest,
        # A run folder of an earlier version may lack the newer metrics.
        metrics={name: title for name, title in METRICS.items() if name in results["models"][RECIPE]["all"]},
        results=results,
        recipe=RECIPE,
        corpora=_read(run, "corpora"),
        curves=plots.curves(stages),
        comparisons=[plots.comparison(charted, metric, title) for metric, title in shown.items()],
        reliability=plots.reliability(results["reliability"]),
    )
    replace_text(run / "report.html", page)
    return run / "report.html"


def _read(run: Path, name: str) -> Any:
    return json.loads((run / f"{name}.json").read_text(encoding="utf-8"))
