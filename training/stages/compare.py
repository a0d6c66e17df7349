"""Measure score files that `cprm-train score` wrote, and compare them with the first. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from training.data.dataset import Dataset, load_dataset
from training.data.pairs import LabelledPair, ScoredPair, read_scores
from training.data.problems import DataError, Problem, Reason
from training.evaluation.bootstrap import (
    RESAMPLES,
    Mask,
    Run,
    paired_difference,
    plain,
    seed_means,
)
from training.evaluation.metrics import Scores
from training.evaluation.reliability import reliability
from training.evaluation.slices import slice_masks, slice_sizes

DEFAULT_THRESHOLD = 0.5
_Key = tuple[str, str]


class _Expected(NamedTuple):
    label: int
    where: str


def compare_files(
    files: Sequence[Path],
    data: Path,
    *,
    split: str | None = None,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Metrics of each file with 95% intervals, overall and by slice, and differences to the first file.

    Labels are those of the score files, and all files must hold the same labelled pairs, in any order; with
    `split` those of that label file. Pairs count as called relevant from `threshold` on; without it from a
    calibrated score of 0.5, so scores must then lie in 0..1. Raises DataError naming file and line.
    """
    if len(set(files)) < len(files):
        raise DataError(f"{', '.join(map(str, files))}: a score file is named twice; name each once")
    dataset = load_dataset(data)
    pairs, scores = _aligned(dataset, files, split, calibrated=threshold is None)
    scale = dataset.card.labels
    runs = {
        name: Run(values, DEFAULT_THRESHOLD if threshold is None else threshold)
        for name, values in scores.items()
    }
    masks = {"all": np.ones(len(pairs), dtype=bool), **slice_masks(dataset, pairs)}
    first, *others = runs

    def measured(name: str, mask: Mask) -> dict[str, Any]:
        return plain(seed_means(pairs, runs[name], scale=scale, mask=mask, resamples=resamples))

    def minus_first(name: str, mask: Mask) -> dict[str, Any]:
        a, b = runs[name], runs[first]
        return plain(paired_difference(pairs, a, b, scale=scale, mask=mask, resamples=resamples))

    return {
        "dataset": dataset.card.name,
        "relevant_from": scale.relevant_from,
        "threshold": runs[first].threshold,
        "resamples": resamples,
        "slices": slice_sizes(pairs, masks),
        "models": {n: {label: measured(n, mask) for label, mask in masks.items()} for n in runs},
        "calibration": _calibration_errors(pairs, scores, scale.relevant_from),
        "differences": {n: {label: minus_first(n, mask) for label, mask in masks.items()} for n in others},
    }


def _aligned(
    dataset: Dataset, files: Sequence[Path], split: str | None, *, calibrated: bool
) -> tuple[list[LabelledPair], dict[str, Scores]]:
    """Pairs in the order of the first file, and each file's scores of them."""
    tables = [_read(path, dataset, calibrated=calibrated) for path in files]
    if split is not None:
        labels = {
            (pair.query, pair.item_id): _Expected(pair.label, f"labels.{split}.tsv")
            for pair in dataset.labels(split)
        }
        _check_same(files[0], tables[0], labels, f"labels.{split}.tsv")
    expected = {key: _Expected(row.pair.label, f"{files[0]}:{row.line}") for key, row in tables[0].items()}
    for path, table in zip(files[1:], tables[1:], strict=True):
        _check_same(path, table, expected, str(files[0]))
    pairs = [row.pair for row in tables[0].values()]
    return pairs, {
        str(path): np.array([table[key].score for key in tables[0]])
        for path, table in zip(files, tables, strict=True)
    }


def _read(path: Path, dataset: Dataset, *, calibrated: bool) -> dict[_Key, ScoredPair]:
    if not path.is_file():
        raise DataError(f"{path}: missing; `cprm-train score --out {path}` writes it")
    table = {}
    for row in read_scores(path, dataset.items.keys(), dataset.card.labels.scale, dataset.log):
        if calibrated and not 0 <= row.score <= 1:
            detail = f"{row.score:g} is off the scale 0..1"
            remedy = "write calibrated scores, or name the threshold of yours (--threshold)"
            dataset.log.add(Problem(path, row.line, Reason.SCORE_OFF_SCALE, "score", detail, remedy))
        table[row.pair.query, row.pair.item_id] = row
    if not table:
        raise DataError(f"{path}: holds no pair; `cprm-train score --out {path}` writes it again")
    return table


def _check_same(
    path: Path, table: Mapping[_Key, ScoredPair], expected: Mapping[_Key, _Expected], reference: str
) -> None:
    """Raise DataError unless `table` holds the expected pairs with the expected labels, those of `reference`."""
    for (query, item_id), row in table.items():
        known = expected.get((query, item_id))
        if known is None:
            detail = f"{query!r} with {item_id!r} is not in {reference}"
            field, remedy = "query", "score the same pairs for every file"
        elif known.label != row.pair.label:
            detail = f"{row.pair.label}, but {known.label} in {known.where}"
            field, remedy = "label", "score both with the same labels"
        else:
            continue
        raise DataError(str(Problem(path, row.line, Reason.PAIR_MISMATCH, field, detail, remedy)))
    for (query, item_id), known in expected.items():
        if (query, item_id) not in table:
            last = max(row.line for row in table.values())
            detail = f"{query!r} with {item_id!r} of {known.where} has no line"
            remedy = "score the same pairs for every file"
            raise DataError(str(Problem(path, last, Reason.PAIR_MISMATCH, "query", detail, remedy)))


def _calibration_errors(
    pairs: Sequence[LabelledPair], scores: Mapping[str, Scores], relevant_from: int
) -> dict[str, float | None]:
    """Expected calibration error of scores as they stand; None where they are no probabilities."""
    relevant = np.array([pair.label >= relevant_from for pair in pairs])
    return {
        name: reliability(values, relevant)["expected_calibration_error"]
        if values.min() >= 0 and values.max() <= 1
        else None
        for name, values in scores.items()
    }
