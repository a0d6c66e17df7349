"""Finished cells as one result: means over seeds, and paired differences of the full recipe to every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from training.ablation.grid import FULL, RECIPES, UNTRAINED, AblationConfig, cells
from training.ablation.run import read_cell
from training.data.dataset import Dataset
from training.evaluation.bootstrap import Run, paired_difference, seed_means
from training.evaluation.metrics import best_threshold
from training.evaluation.slices import slice_masks

Group = tuple[str, float]
"""A variant and a share of the labels: one row, over all seeds that are done."""


def compare_cells(grid: AblationConfig, dataset: Dataset, out: Path) -> dict[str, Any]:
    """`rows` and `differences` as lists of records, with 95% intervals over queries and seeds.

    A difference is `full` minus the other variant with the same labels, each on the seeds both have. Thresholds
    come from dev, by cell.
    """
    runs = _runs(grid, dataset, out)
    test, relevant_from = dataset.labels("test"), dataset.card.labels.relevant_from
    masks = {"all": np.ones(len(test), dtype=bool), **slice_masks(dataset, test)}
    rows = [
        _identity(group)
        | {"seeds": sorted(by_seed), "spent": _spent(grid, group, out)}
        | {
            "slices": {
                name: _plain(seed_means(test, list(by_seed.values()), relevant_from=relevant_from, mask=mask))
                for name, mask in masks.items()
            }
        }
        for group, by_seed in track(runs.items(), description="metrics")
    ]
    differences = []
    for group, other in track(_opponents(runs), description="differences"):
        first, second = _paired(runs[group], runs[other], untrained=other[0] in UNTRAINED)
        differences.append(
            {"variant": other[0], "label_share": group[1], "seeds": len(first)}
            | {
                "slices": {
                    name: _plain(
                        paired_difference(test, first, second, relevant_from=relevant_from, mask=mask)
                    )
                    for name, mask in masks.items()
                }
            }
        )
    return {
        "title": grid.title,
        "dataset": dataset.card.name,
        "test": {"queries": len({pair.query for pair in test}), "pairs": len(test)},
        "missing": [cell.name for cell in cells(grid) if read_cell(out, cell) is None],
        "rows": rows,
        "differences": differences,
    }


def _runs(grid: AblationConfig, dataset: Dataset, out: Path) -> dict[Group, dict[int, Run]]:
    relevant_from = dataset.card.labels.relevant_from
    relevant = np.array([pair.label >= relevant_from for pair in dataset.labels("dev")])
    runs: dict[Group, dict[int, Run]] = {}
    for cell in cells(grid):
        if found := read_cell(out, cell):
            scores = found[1]
            threshold = best_threshold(relevant, scores.dev)
            runs.setdefault((cell.variant, cell.label_share), {})[cell.seed] = Run(scores.test, threshold)
    places = {name: place for place, name in enumerate([*RECIPES])}
    return dict(sorted(runs.items(), key=lambda item: (-item[0][1], places.get(item[0][0], len(places)))))


def _opponents(runs: dict[Group, dict[int, Run]]) -> list[tuple[Group, Group]]:
    """`full` at each share against every variant at that share, and against what reads no label."""
    return [
        (group, other)
        for group in runs
        if group[0] == FULL
        for other in runs
        if other[0] != FULL
        and (other[1] == group[1] or other[0] in UNTRAINED)
        and (other[0] in UNTRAINED or runs[group].keys() & runs[other].keys())
    ]


def _paired(first: dict[int, Run], second: dict[int, Run], *, untrained: bool) -> tuple[list[Run], list[Run]]:
    """Runs of the seeds that both have; what draws nothing stands against all."""
    if untrained:
        return list(first.values()), list(second.values())
    shared = sorted(first.keys() & second.keys())
    return [first[seed] for seed in shared], [second[seed] for seed in shared]


def _spent(grid: AblationConfig, group: Group, out: Path) -> dict[str, float]:
    """Tokens and wall time of a cell, as medians over seeds."""
    found: list[dict[str, Any]] = []
    for cell in cells(grid):
        if (cell.variant, cell.label_share) == group and (read := read_cell(out, cell)):
            found.append(read[0])
    return {
        "pretrain_tokens": _median([record.get("pretrain", {}).get("tokens", 0) for record in found]),
        "sft_tokens": _median([record.get("sft", {}).get("tokens", 0) for record in found]),
        "wall_s": _median([record["wall_s"] for record in found]),
    }


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _identity(group: Group) -> dict[str, Any]:
    return {"variant": group[0], "label_share": group[1]}


def _plain(intervals: Any) -> dict[str, Any]:
    return {metric: asdict(interval) for metric, interval in intervals.items()}
