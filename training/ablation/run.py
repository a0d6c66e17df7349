"""Run the cells of a grid that have no result yet."""

from __future__ import annotations

import io
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from model_repo.bundle import replace_text
from training.ablation.grid import RECIPES, AblationConfig, Cell, cells
from training.baselines import score_baseline
from training.config import ConfigError, RunConfig
from training.data.dataset import Dataset, load_dataset
from training.evaluation.scores import SplitScores
from training.stages.artifacts import RunFolder, code_commit
from training.stages.evaluate import check_labels, model_scores
from training.stages.names import PRETRAIN, RECIPE
from training.stages.run import Workshop, fine_tune, open_workshop, pretrain

_console = Console()


def open_data(grid: AblationConfig, data: Path) -> Dataset:
    """The data set, with dev and test drawn down as the grid says."""
    dataset = load_dataset(data, strict=False)
    for split, queries in (("dev", grid.dev_queries), ("test", grid.test_queries)):
        if queries is not None:
            dataset.sample(split, queries)
    return dataset


def run_grid(
    grid: AblationConfig, dataset: Dataset, out: Path, *, seeds: Sequence[int] | None = None
) -> None:
    """Leave `cells/<name>.json` and `.npz` (scores of dev and test) for every cell of `seeds` (default all).

    Cells that are there are not run again; a killed cell goes on from its checkpoint. Processes with different
    seeds may share `out`. Raises ConfigError when `out` belongs to another recipe or other data, or the grid lacks
    a seed, or another process trains the same cell; DataError for the data.
    """
    if unknown := set(seeds or ()) - set(grid.seeds):
        raise ConfigError(f"--seeds: {sorted(unknown)} are not among the grid's {list(grid.seeds)}")
    RunFolder(out, grid.ground()).bind(dataset.root)
    check_labels(dataset)
    wanted = [cell for cell in cells(grid) if seeds is None or cell.seed in seeds]
    missing = [cell for cell in wanted if not _record(out, cell).exists()]
    _console.print(f"{len(wanted)} cells, {len(wanted) - len(missing)} of them done")
    if not missing:
        return
    shop = open_workshop(grid.run, dataset, out / "work" / "shop")
    for number, cell in enumerate(missing, 1):
        _console.print(f"[bold]cell {number} of {len(missing)}: {cell.name}[/]")
        _run_cell(grid, cell, shop, out)


def _run_cell(grid: AblationConfig, cell: Cell, shop: Workshop, out: Path) -> None:
    config = cell.config(grid)
    folder = RunFolder(out / "work" / cell.name, config)
    with folder.training():
        _make_cell(cell, config, shop, folder, out)


def _make_cell(cell: Cell, config: RunConfig, shop: Workshop, folder: RunFolder, out: Path) -> None:
    start = time.monotonic()
    record: dict[str, Any] = {
        "variant": cell.variant,
        "seed": cell.seed,
        "label_share": cell.label_share,
        "machine": _machine(),
        "commit": code_commit(),
        "config": config.model_dump(mode="json"),
    }
    if cell.variant in RECIPES:
        scores, spent = _train(cell, config, shop, folder, out)
        record |= spent
    else:
        scores = score_baseline(cell.variant, shop.dataset, config, shop.embed)
    record["wall_s"] = round(time.monotonic() - start, 1)
    _store(out, cell, record, scores)
    # The record is what remains of a cell: a grid of weights would fill a disk.
    folder.forget(RECIPE)


def _train(
    cell: Cell, config: RunConfig, shop: Workshop, folder: RunFolder, out: Path
) -> tuple[SplitScores, dict[str, Any]]:
    """Pre-train once for all label shares of a variant and seed; fine-tune and score."""
    spent: dict[str, Any] = {}
    weights = None
    if RECIPES[cell.variant].pretrained:
        # The share of labels is no part of pre-training, so that all shares find the same folder.
        shared = config.model_copy(update={"sft": shop.config.sft})
        weights = RunFolder(out / "work" / f"{cell.variant}.seed{cell.seed}", shared)
        pretrain(replace(shop, config=shared, folder=weights))
        spent["pretrain"] = _spent(weights.result(PRETRAIN))
        spent["corpora"] = {name: made["documents"] for name, made in weights.result("corpora").items()}
    if not folder.has_weights(RECIPE):  # cells of earlier versions left the record without them
        folder.forget(RECIPE)
    tuned = replace(shop, config=config, folder=folder)
    fine_tune(tuned, RECIPE, start=weights)
    spent["sft"] = _spent(folder.result(RECIPE))
    model = tuned.model()
    folder.load_weights(RECIPE, model)
    scores = model_scores(model, tuned.dataset, tuned.source, title=cell.name)
    return scores, spent


def _spent(stage: dict[str, Any]) -> dict[str, float]:
    """Tokens of a stage, the loss it ended with, and its seconds over all starts where it was timed."""
    last = stage["curve"][-1]
    timed = {"seconds": round(stage["seconds"], 3)} if "seconds" in stage else {}
    return {"tokens": last["tokens"], "loss": round(last["loss"], 4), **timed}


def _store(out: Path, cell: Cell, record: dict[str, Any], scores: SplitScores) -> None:
    """Scores first: a record always has them."""
    arrays = io.BytesIO()
    np.savez(arrays, dev=scores.dev, test=scores.test)
    path = _record(out, cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".part")
    scratch.write_bytes(arrays.getvalue())
    scratch.replace(path.with_suffix(".npz"))
    replace_text(path, json.dumps(record, indent=1) + "\n")


def read_cell(out: Path, cell: Cell) -> tuple[dict[str, Any], SplitScores] | None:
    """Record and scores of a finished cell, or None."""
    path = _record(out, cell)
    if not path.exists():
        return None
    with np.load(path.with_suffix(".npz")) as arrays:
        return json.loads(path.read_text(encoding="utf-8")), SplitScores(arrays["dev"], arrays["test"])


def _record(out: Path, cell: Cell) -> Path:
    # Not `with_suffix` on the name: a share such as 0.5 brings a dot of its own.
    return out / "cells" / f"{cell.name}.json"


def _machine() -> dict[str, Any]:
    device = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine()
    )
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}
