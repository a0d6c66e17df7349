"""A plan as tables for people."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.plan.estimate import RunPlan, StagePlan
from training.plan.memory import RESERVE

_GIB = 1024**3
# Epochs beyond which repeated text teaches nothing (Muennighoff et al. 2023, arXiv 2305.16264).
_WORTHLESS = 40


def show_plan(plan: RunPlan, console: Console) -> None:
    model, machine = plan.model, plan.machine
    console.print(
        Text(f"Plan of {plan.bundle} on {plan.data} ({plan.dataset}); nothing is trained", style="bold")
    )
    console.print(
        f"model    {model.name}: {model.parameters:,} parameters, {model.layers} layers of {model.hidden}, "
        f"vocabulary {model.vocabulary:,}",
        highlight=False,
    )
    peaks = ", ".join(
        f"{_precision(name)} {peak / 1e12:,.3g} TFLOP/s" for name, peak in machine.peaks.items()
    )
    console.print(f"machine  {machine.name}: {machine.memory / _GIB:,.0f} GiB; {peaks}", highlight=False)
    console.print(f"         {machine.source}; {plan.mfu:.0%} of the peak assumed (--mfu)", highlight=False)
    for line in plan.missing:
        console.print(Text(f"NOT AT HAND  {line}", style="yellow"), soft_wrap=True)
    console.print(_corpora(plan))
    console.print(_stages(plan))
    for stage in plan.stages:
        for remedy in stage.remedies:
            console.print(Text(f"{stage.name} does not fit; remedy: {remedy}", style="red"), soft_wrap=True)
    if (epochs := plan.stages[0].epochs) > _WORTHLESS:
        said = f"the budget reads the corpora {epochs:,.0f} times; lower pretrain.optimiser.tokens, or bring more data"
        console.print(Text(said, style="yellow"), soft_wrap=True)
    console.print(
        f"in all {_time(plan.seconds)} of training; mining, evaluation and export come on top. "
        f"Run folder: up to {_size(plan.disk)}.",
        highlight=False,
    )


def _corpora(plan: RunPlan) -> Table:
    table = _table("corpus", "documents", f"tokens ({plan.tokenizer})", "read", "dropped")
    for corpus in plan.corpora:
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in corpus.dropped.items())
        row = f"{corpus.documents:,}", f"{corpus.tokens:,}", _times(corpus.passes), dropped or "nothing"
        table.add_row(corpus.name, *row)
    if len(plan.corpora) > 1:
        documents, tokens = (sum(getattr(c, name) for c in plan.corpora) for name in ("documents", "tokens"))
        table.add_row("all", f"{documents:,}", f"{tokens:,}", _times(plan.stages[0].epochs), "")
    table.columns[-1].justify = "left"
    return table


def _stages(plan: RunPlan) -> Table:
    table = _table("", *(stage.name for stage in plan.stages))
    for name, cells in _rows(plan):
        table.add_row(name, *cells, end_section=name in ("time", "logits"))
    return table


def _rows(plan: RunPlan) -> list[tuple[str, list[str | Text]]]:
    def of(read: object) -> list[str | Text]:
        assert callable(read)
        return [read(stage) for stage in plan.stages]

    return [
        ("token budget", of(lambda s: f"{s.tokens:,}")),
        ("epochs", of(lambda s: f"{s.epochs:,.1f}")),
        ("tokens a step", of(lambda s: f"{s.step_tokens:,.0f} + {s.padding:.0%} padding")),
        ("steps", of(lambda s: f"{s.steps:,}")),
        ("arithmetic", of(lambda s: f"{s.flops:.2e} FLOP")),
        ("tokens/s", of(lambda s: f"{s.tokens / s.seconds:,.0f}")),
        ("time", of(lambda s: _time(s.seconds))),
        ("largest step", of(lambda s: f"{s.largest.objective} {s.largest.padded:,.0f}".strip())),
        ("weights (fp32)", of(lambda s: _size(s.memory.weights))),
        ("half copies", of(lambda s: _size(s.memory.copies))),
        ("gradients", of(lambda s: _size(s.memory.gradients))),
        ("AdamW moments", of(lambda s: _size(s.memory.moments))),
        ("activations", of(lambda s: _size(s.memory.activations))),
        ("logits", of(lambda s: _size(s.memory.logits))),
        (f"memory, of {_size(plan.memory_limit)} ({RESERVE:.0%} reserved)", of(_verdict)),
    ]


def _verdict(stage: StagePlan) -> Text:
    total = _size(stage.memory.total)
    return (
        Text(f"{total} fits", style="green")
        if stage.fits
        else Text(f"{total} DOES NOT FIT", style="bold red")
    )


def _table(first: str, *others: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, pad_edge=False)
    for other in others:
        table.add_column(other, justify="right")
    return table


def _precision(name: str) -> str:
    return "fp32" if name == "no" else name


def _times(passes: float) -> str:
    return f"{passes:,.1f} x"


def _size(size: int) -> str:
    return f"{size / _GIB:,.1f} GiB" if size >= _GIB // 2 else f"{size / 1024**2:,.1f} MiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:,.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.1f} days"
