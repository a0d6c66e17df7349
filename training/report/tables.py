"""What `cprm-train evaluate` and `probe` print: tables for a terminal or a log."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from training.report.render import METRICS

# Points (0..100) with two digits, the others (0..1) with three: finer is noise.
_DIGITS = {"auc": 2, "f1": 2, "accuracy": 2, "ndcg10": 3, "mrr": 3}
_BY_SLICE = ("auc", "ndcg10", "mrr")


def comparison_tables(result: Mapping[str, Any]) -> str:
    """Metrics of every file, metrics by slice, and paired differences where there is a second file."""
    tables = [_overall(result), _by_slice(result)]
    if result["differences"]:
        tables.append(_differences(result))
    return _printed(*tables)


def probe_table(stages: Mapping[str, Any]) -> str:
    """Metrics of dev by slice and stage."""
    table = _table("dev, 95% intervals over queries", "slice", "stage", *(METRICS[m] for m in _BY_SLICE))
    for label in next(iter(stages.values())):
        for index, (stage, by_slice) in enumerate(stages.items()):
            cells = (_interval(by_slice[label][metric], metric) for metric in _BY_SLICE)
            table.add_row("" if index else label, stage, *cells)
    return _printed(table)


def _printed(*tables: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=160, markup=False, emoji=False, highlight=False).print(*tables, sep="\n")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _overall(result: Mapping[str, Any]) -> Table:
    size = result["slices"]["all"]
    table = _table(
        f"{result['dataset']}: {size['queries']:,} queries, {size['pairs']:,} pairs; 95% intervals over queries",
        "scores",
        *METRICS.values(),
        "calibration error",
    )
    for name, by_slice in result["models"].items():
        error = result["calibration"][name]
        cells = (_interval(by_slice["all"][metric], metric) for metric in METRICS)
        table.add_row(name, *cells, "-" if error is None else f"{error:.3f}")
    table.caption = f"F1 and accuracy: relevant from a score of {result['threshold']:g}"
    return table


def _by_slice(result: Mapping[str, Any]) -> Table:
    table = _table("By slice", "slice", "queries", "pairs", "scores", *(METRICS[m] for m in _BY_SLICE))
    for label, size in result["slices"].items():
        if label == "all":
            continue
        for index, (name, by_slice) in enumerate(result["models"].items()):
            cells = (_interval(by_slice[label][metric], metric) for metric in _BY_SLICE)
            first = index == 0
            sizes = (label, f"{size['queries']:,}", f"{size['pairs']:,}") if first else ("", "", "")
            table.add_row(*sizes, name, *cells)
    return table


def _differences(result: Mapping[str, Any]) -> Table:
    first = next(iter(result["models"]))
    table = _table(
        f"Minus {first}, on the same resampled queries", "slice", "scores", *(METRICS[m] for m in _BY_SLICE)
    )
    for label in result["slices"]:
        for index, (name, by_slice) in enumerate(result["differences"].items()):
            cells = (_difference(by_slice[label][metric], metric) for metric in _BY_SLICE)
            table.add_row("" if index else label, name, *cells)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _interval(measured: Mapping[str, Any], metric: str, sign: str = "") -> str:
    if measured["value"] is None:
        return "-"
    form = f"{sign}.{_DIGITS[metric]}f"
    return f"{measured['value']:{form}}  {measured['low']:{form}} to {measured['high']:{form}}"


def _difference(measured: Mapping[str, Any], metric: str) -> str:
    if measured["value"] is None:
        return "-"
    return f"{_interval(measured, metric, '+')}  p {measured['p_value']:.3f}"
