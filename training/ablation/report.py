"""One page for a grid: a table of every cell, what each part adds, and learning curves. Opens without a network."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from model_repo.bundle import replace_text
from training.ablation import plots
from training.ablation.grid import FULL, NONE, RECIPES
from training.baselines import BASELINES
from training.report.render import METRICS

TITLES = {
    FULL: "full",
    "-dke": "without DKE",
    "-icp": "without ICP",
    "-rcd": "without RCD",
    "dke-only": "DKE alone",
    "icp-only": "ICP alone",
    "rcd-only": "RCD alone",
    "contrast-only": "contrast alone",
    "joint-only": "joint alone",
    "language-only": "language modelling alone",
    NONE: "SFT alone",
    "none-longer": "SFT alone, all tokens",
    "sbert-cross-encoder": "sentence-transformers CrossEncoder",
    "sbert-cross-encoder-longer": "sentence-transformers CrossEncoder, all tokens",
    "dssm": "DSSM",
    "minilm-cosine": "MiniLM cosine, zero-shot",
    "bm25": "BM25",
}
_SLICES = {"all": "all", "unseen-intent": "unseen intents", "cold items": "cold items"}


def write_page(result: Mapping[str, Any], out: Path) -> Path:
    """Write `ablation.json` and `ablation.html` of `compare_cells`' result; return the page's path."""
    replace_text(out / "ablation.json", json.dumps(result, indent=1) + "\n")
    known = {name for row in result["rows"] for name in row["slices"]}
    slices = {name: title for name, title in _SLICES.items() if name in known}
    present = {row["variant"] for row in result["rows"]}
    titles = {name: title for name, title in TITLES.items() if name in present}
    recipes = {name: title for name, title in titles.items() if name in RECIPES and name != FULL}
    drawn = {name: title for name, title in titles.items() if name in (FULL, NONE, *BASELINES)}
    metrics = [(name, METRICS[name]) for name in ("auc", "ndcg10")]
    environment = Environment(
        loader=PackageLoader("training", "ablation"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        result=result,
        metrics=METRICS,
        slices=slices,
        by_share=[
            (share, list(records))
            for share, records in itertools.groupby(result["differences"], key=lambda r: r["label_share"])
        ],
        titles=TITLES,
        contributions=[
            plots.contributions(result["differences"], recipes, metric, slices)
            for metric in metrics
            if result["differences"]
        ],
        curves=[plots.learning_curves(result["rows"], drawn, metric, slices) for metric in metrics],
    )
    replace_text(out / "ablation.html", page)
    return out / "ablation.html"
