"""Read everything in a data set folder and say what is there and what is wrong."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.data.dataset import SPLITS, Dataset, query_key
from training.data.lines import find
from training.data.problems import DataError, Problem, ProblemLog, Reason


@dataclass(slots=True)
class CheckReport:
    """Counts by name, problems by reason, and what made a file unreadable as a whole."""

    root: Path
    counts: dict[str, str] = field(default_factory=dict)
    log: ProblemLog = field(default_factory=lambda: ProblemLog(strict=False))
    fatal: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.fatal and not self.log.counts


def check_dataset(root: Path) -> CheckReport:
    """Never raises for bad data: every file is read and every problem collected."""
    report = CheckReport(root)
    try:
        dataset = Dataset(root, strict=False)
        report.log = dataset.log
        _ = dataset.items
    except DataError as error:
        report.fatal.append(str(error))
        return report
    for count in (_count_items, _count_labels, _count_clicks, _count_rest):
        _guard(report, count, dataset)
    return report


def _guard(report: CheckReport, count: Callable[[CheckReport, Dataset], None], dataset: Dataset) -> None:
    try:
        count(report, dataset)
    except DataError as error:
        report.fatal.append(str(error))


def _count_items(report: CheckReport, dataset: Dataset) -> None:
    items = dataset.items.values()
    report.counts["items"] = f"{len(items):,}"
    for item_field in dataset.card.item_fields:
        filled = sum(bool("".join(item.fields.get(item_field.name, ""))) for item in items)
        report.counts[f"  {item_field.name}"] = f"filled in {filled / len(items):.0%}"


def _count_labels(report: CheckReport, dataset: Dataset) -> None:
    owner: dict[str, str] = {}
    for split in SPLITS:
        if find(dataset.root, f"labels.{split}.tsv") is None:
            report.counts[f"labels.{split}"] = "absent"
            continue
        pairs = dataset.labels(split)
        queries = dict.fromkeys(pair.query for pair in pairs)
        histogram = Counter(pair.label for pair in pairs)
        shown = ", ".join(f"{label}: {histogram[label]:,}" for label in sorted(histogram))
        report.counts[f"labels.{split}"] = f"{len(pairs):,} pairs, {len(queries):,} queries ({shown})"
        for query in queries:
            if (first := owner.setdefault(query_key(query), split)) != split:
                _leak(report, dataset, f"labels.{split}.tsv", f"{query!r} is in {first} too")


def _count_clicks(report: CheckReport, dataset: Dataset) -> None:
    clicks = dataset.clicks()
    clicked = sum(click.clicks for click in clicks)
    shown = sum(click.impressions for click in clicks)
    report.counts["clicks"] = f"{len(clicks):,} rows, {clicked:,} clicks on {shown:,} impressions"
    _find_leaks(report, dataset, "clicks", {click.query for click in clicks})


def _count_rest(report: CheckReport, dataset: Dataset) -> None:
    completions = dataset.completions()
    _find_leaks(report, dataset, "rcd.jsonl", {said.query for made in completions for said in made.queries})
    covered = {completion.item_id for completion in completions}
    report.counts["teacher completions"] = f"{len(covered):,} items"
    report.counts["queries with slices"] = f"{len(dataset.query_info()):,}"
    report.counts["cold items"] = f"{len(dataset.cold_items()):,}"


def _find_leaks(report: CheckReport, dataset: Dataset, file: str, queries: Set[str]) -> None:
    held_out = dataset.held_out_queries()
    for query in sorted(query for query in queries if query_key(query) in held_out):
        _leak(report, dataset, file, f"{query!r} is a query of dev or test")


def _leak(report: CheckReport, dataset: Dataset, file: str, detail: str) -> None:
    report.log.add(
        Problem(dataset.root / file, 0, Reason.SPLIT_LEAK, "query", detail, "keep it in one split")
    )


def render(report: CheckReport) -> str:
    """The report as a table and a list of problems, for a terminal or a log."""
    table = Table(title=str(report.root), show_header=False, title_justify="left")
    for name, value in report.counts.items():
        table.add_row(name, value)
    buffer = io.StringIO()
    Console(file=buffer, width=120).print(table)
    lines = [f"error: {message}" for message in report.fatal]
    lines += [f"{count:,} x {reason}" for reason, count in report.log.counts.most_common()]
    lines += [f"  {problem}" for problem in report.log.kept]
    return buffer.getvalue() + "\n".join(lines or ["no problem found"])
