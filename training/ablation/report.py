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
from training.ablation.grid import FULL, NONE
from training.baselines import BASELINES
from training.report.render import METRICS

_SLICES = {"all": "all", "unseen-intent": "unseen intents", "cold items": "cold items"}


def write_page(result: Mapping[str, Any], out: Path) -> Path:
    """Write `ablation.json` and `ablation.html` of `compare_cells`' result; return the page's path."""
    replace_text(out / "ablation.json", json.dumps(result, indent=1) + "\n")
    present = {name for row in result["rows"] for name in row["slices"]}
    slices = {name: title for name, title in _SLICES.items() if name in present}
    drawn = [FULL, NONE, *BASELINES]
    variants = [name for name in drawn if any(row["variant"] == name for row in result["rows"])]
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
        contributions=[plots.contributions(result["differences"], m, slices) for m in ("auc", "ndcg10")]
        if result["differences"]
        else [],
        curves=[plots.learning_curves(result["rows"], variants, m, slices) for m in ("auc", "ndcg10")],
    )
    replace_text(out / "ablation.html", page)
    return out / "ablation.html"
