"""Finished cells as one result: means over seeds, and paired differences of the full recipe to every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track

from training.ablation.grid import FULL, RECIPES, UNTRAINED, AblationConfig, Cell, cells
from training.ablation.run import read_cell
from training.data.dataset import Dataset
from training.evaluation.bootstrap import Run, paired_difference, plain, seed_means
from training.evaluation.metrics import best_threshold
from training.evaluation.scores import SplitScores
from training.evaluation.slices import slice_masks
from training.stages.evaluate import platt_error, relevant_pairs

Group = tuple[str, float]
"""A variant and a share of the labels: one row, over all seeds that are done."""


def compare_cells(grid: AblationConfig, dataset: Dataset, out: Path) -> dict[str, Any]:
    """`rows` and `differences` as lists of records, with 95% intervals over queries and seeds.

    A difference is `full` minus the other variant with the same labels, each on the seeds both have. Thresholds
    come from dev, by cell.
    """
    found = {cell: read for cell in cells(grid) if (read := read_cell(out, cell)) is not None}
    groups = _groups(found, dataset)
    test, scale = dataset.labels("test"), dataset.card.labels
    masks = {"all": np.ones(len(test), dtype=bool), **slice_masks(dataset, test)}
    rows = [
        _identity(group)
        | {
            "seeds": sorted(by_seed),
            "spent": _spent([done.record for done in by_seed.values()]),
            "calibration_error": float(np.mean([done.calibration_error for done in by_seed.values()])),
            "slices": {
                name: plain(seed_means(test, [done.run for done in by_seed.values()], scale=scale, mask=mask))
                for name, mask in masks.items()
            },
        }
        for group, by_seed in track(groups.items(), description="metrics")
    ]
    differences = []
    for group, other in track(_opponents(groups), description="differences"):
        first, second = _paired(groups[group], groups[other], untrained=other[0] in UNTRAINED)
        differences.append(
            {"variant": other[0], "label_share": group[1], "seeds": len(first)}
            | {
                "slices": {
                    name: plain(paired_difference(test, first, second, scale=scale, mask=mask))
                    for name, mask in masks.items()
                }
            }
        )
    return {
        "title": grid.title,
        "dataset": dataset.card.name,
        "test": {"queries": len({pair.query for pair in test}), "pairs": len(test)},
        "missing": [cell.name for cell in cells(grid) if cell not in found],
        "rows": rows,
        "differences": differences,
    }


class _Done(NamedTuple):
    """One cell as the page needs it. `calibration_error`: on test, after Platt scaling on dev."""

    record: dict[str, Any]
    run: Run
    calibration_error: float


def _groups(
    found: Mapping[Cell, tuple[dict[str, Any], SplitScores]], dataset: Dataset
) -> dict[Group, dict[int, _Done]]:
    dev, test = (relevant_pairs(dataset, split) for split in ("dev", "test"))
    groups: dict[Group, dict[int, _Done]] = {}
    for cell, (record, scores) in found.items():
        error = platt_error(scores, dev, test)["expected_calibration_error"]
        done = _Done(record, Run(scores.test, best_threshold(dev, scores.dev)), error)
        groups.setdefault((cell.variant, cell.label_share), {})[cell.seed] = done
    places = {name: place for place, name in enumerate([*RECIPES])}
    return dict(sorted(groups.items(), key=lambda item: (-item[0][1], places.get(item[0][0], len(places)))))


def _opponents(groups: Mapping[Group, Mapping[int, _Done]]) -> list[tuple[Group, Group]]:
    """`full` at each share against every variant at that share, and against what reads no label."""
    return [
        (group, other)
        for group in groups
        if group[0] == FULL
        for other in groups
        if other[0] != FULL
        and (other[1] == group[1] or other[0] in UNTRAINED)
        and (other[0] in UNTRAINED or groups[group].keys() & groups[other].keys())
    ]


def _paired(
    first: Mapping[int, _Done], second: Mapping[int, _Done], *, untrained: bool
) -> tuple[list[Run], list[Run]]:
    """Runs of the seeds that both have; what draws nothing stands against all."""
    if untrained:
        return [done.run for done in first.values()], [done.run for done in second.values()]
    shared = sorted(first.keys() & second.keys())
    return [first[seed].run for seed in shared], [second[seed].run for seed in shared]


def _spent(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Tokens and seconds of training, as medians over seeds, None where no record says it.

    `wall_s` is the time of what has no stages: baselines.
    """
    whole = [record["wall_s"] for record in records if "sft" not in record]
    return {"wall_s": _median(whole)} | {
        f"{stage}_{what}": _median(
            [record[stage][what] for record in records if what in record.get(stage, {})]
        )
        for stage in ("pretrain", "sft")
        for what in ("tokens", "seconds")
    }


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _identity(group: Group) -> dict[str, Any]:
    return {"variant": group[0], "label_share": group[1]}
