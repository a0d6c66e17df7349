"""The teaching job: ask for every pending item, journal each completion, then write rcd.jsonl from the journal."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model_repo.bundle import replace_text
from training.data.dataset import Dataset
from training.teacher.client import Reply, TeacherClient
from training.teacher.cost import count_tokens, prompt_tokens
from training.teacher.errors import TeacherError
from training.teacher.failures import CallFailed
from training.teacher.journal import Journal, JournalLine
from training.teacher.plan import Plan, TeachConfig


@dataclass(slots=True)
class TeachReport:
    """What a job did, and what its files now hold. Tokens and cost are those of the whole journal."""

    asked: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    retries: int = 0
    stopped_by_cost: bool = False
    items: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None


async def teach(dataset: Dataset, config: TeachConfig, client: TeacherClient) -> TeachReport:
    """Ask for what is missing and write the files; the caller closes the client.

    Raises TeacherError when the job cannot go on: settings, another run at work, a journal of another kind, a key or
    model that is refused, an endpoint that is down. Completions received until then are in the journal, and the same
    call goes on after them.
    """
    config.check()
    plan = Plan(dataset, config, client.endpoint.model)
    with Journal(config.journal, plan.identity) as journal:
        job = _Job(plan, client, journal)
        await job.run(plan.pending(journal.lines))
        job.report.retries = client.retries
        _write(plan, journal.lines, job.report)
    return job.report


class _Job:
    """The state that the workers share; all of them run in one event loop."""

    def __init__(self, plan: Plan, client: TeacherClient, journal: Journal) -> None:
        self._plan, self._client, self._journal = plan, client, journal
        self._fatal: TeacherError | None = None
        self._failures_in_a_row = 0
        self._spent = _spent(plan.config, journal.lines)
        self.report = TeachReport()

    async def run(self, pending: Sequence[str]) -> None:
        """Every worker takes the next item when it is free; nothing is started once the job must end.

        Calls in flight are finished even then, because they are paid for.
        """
        queue = iter(pending)
        with _progress() as progress:
            bar = progress.add_task("teach", total=len(pending))
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._plan.config.concurrency, len(pending))):
                    group.create_task(self._work(queue, lambda: progress.advance(bar)))
        if self._fatal:
            raise self._fatal

    async def _work(self, queue: Iterator[str], advance: Callable[[], None]) -> None:
        for item_id in queue:
            if self._must_end():
                return
            self.report.asked += 1
            try:
                messages = self._plan.messages(item_id)
                self._received(item_id, await self._client.ask(messages, self._plan.config.outputs))
            except CallFailed as error:
                self._failed(item_id, error)
            except TeacherError as error:
                self._fatal = self._fatal or error
            advance()

    def _must_end(self) -> bool:
        limit = self._plan.config.max_cost
        if limit is not None and self._spent >= limit:
            self.report.stopped_by_cost = True
        return self.report.stopped_by_cost or self._fatal is not None

    def _received(self, item_id: str, reply: Reply) -> None:
        line = _line(self._plan, item_id, reply)
        self._journal.append(line)
        self._spent += _spent(self._plan.config, [line])
        self._failures_in_a_row = 0

    def _failed(self, item_id: str, error: CallFailed) -> None:
        self.report.failed[item_id] = str(error)
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._plan.config.max_failures and self._fatal is None:
            self._fatal = TeacherError(
                f"{self._client.endpoint.shown}: {self._failures_in_a_row} calls in a row failed, the last with: "
                f"{error}; the same command goes on"
            )


def _line(plan: Plan, item_id: str, reply: Reply) -> JournalLine:
    known = reply.prompt_tokens is not None and reply.completion_tokens is not None
    return JournalLine(
        **plan.identity.model_dump(),
        item_id=item_id,
        item_digest=plan.digest(item_id),
        content=reply.content,
        refusal=reply.refusal,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens
        if reply.prompt_tokens is not None
        else prompt_tokens(plan.messages(item_id)),
        completion_tokens=(
            reply.completion_tokens if reply.completion_tokens is not None else count_tokens(reply.content)
        ),
        usage_estimated=not known,
    )


def _spent(config: TeachConfig, lines: Iterable[JournalLine]) -> float:
    if config.prices is None:
        return 0.0
    return sum(config.prices.cost(line.prompt_tokens, line.completion_tokens) for line in lines)


def _write(plan: Plan, lines: Sequence[JournalLine], report: TeachReport) -> None:
    """rcd.jsonl and rcd.rejected.jsonl from the journal, each replaced as a whole.

    Raises TeacherError when not one completion was received: an empty file would pass for a finished job.
    """
    if report.failed and not lines:
        raise TeacherError(f"no completion was received; the last call: {list(report.failed.values())[-1]}")
    accepted, rejected = [], []
    for item_id, judged in plan.judged(lines).items():
        if judged.accepted:
            accepted.append({"item_id": item_id, **judged.accepted})
        for one in judged.rejected:
            rejected.append(
                {"item_id": item_id, "output": one.output, "reason": one.reason, "text": one.text}
            )
            report.rejected[one.reason] += 1
        report.accepted.update(judged.accepted.keys())
    replace_text(plan.config.out, _json_lines(accepted))
    replace_text(plan.config.rejected, _json_lines(rejected))
    report.items = len(accepted)
    report.tokens_in = sum(line.prompt_tokens for line in lines)
    report.tokens_out = sum(line.completion_tokens for line in lines)
    report.cost = _spent(plan.config, lines) if plan.config.prices else None


def _json_lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)
