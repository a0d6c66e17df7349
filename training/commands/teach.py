"""`cprm-train teach`: arguments in, one call."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

# openai and rich take half a second to import; `--help` must not pay for them.
if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.teacher.client import Endpoint
    from training.teacher.plan import TeachConfig
    from training.teacher.run import TeachReport

_FAILED_SHOWN = 5


def add_parser(commands: Any) -> None:
    """Add `teach` to the sub-commands of `cprm-train`."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "teach", help="make rcd.jsonl: have a teacher model describe every item (docs/data.md)"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument(
        "--endpoint", required=True, help="OpenAI-compatible URL, such as http://localhost:8000/v1"
    )
    parser.add_argument("--model", required=True, help="the teacher's name at the endpoint")
    parser.add_argument(
        "--out", type=Path, help="default rcd.jsonl in the data set; its journal lies beside it"
    )
    parser.add_argument(
        "--outputs", default="summary,paraphrase,background,queries", help="default %(default)s"
    )
    parser.add_argument("--limit", type=_positive(int), help="the first so many items of the data set")
    parser.add_argument("--dry-run", action="store_true", help="print the estimated cost and ask nothing")
    parser.add_argument("--retry-rejected", action="store_true", help="ask again where nothing could be used")
    _add_costs(parser)
    _add_calls(parser)
    parser.set_defaults(run=_teach)


def _add_costs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--price-in", type=_positive(float), help="price of a million tokens of the prompt")
    parser.add_argument(
        "--price-out", type=_positive(float), help="price of a million tokens of the completion"
    )
    parser.add_argument(
        "--max-cost", type=_positive(float), help="start no further call once the journal has cost so much"
    )


def _add_calls(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--concurrency", type=_positive(int), default=8, help="calls at a time; default %(default)s"
    )
    parser.add_argument(
        "--structured",
        choices=("json_schema", "json_object", "text"),
        default="json_schema",
        help="how JSON is asked for; text where the server refuses response_format; default %(default)s",
    )
    parser.add_argument(
        "--timeout",
        type=_positive(float),
        default=120.0,
        help="seconds an attempt may take; default %(default)s",
    )
    parser.add_argument("--attempts", type=_positive(int), default=8, help="per item; default %(default)s")
    parser.add_argument(
        "--max-tokens", type=_positive(int), default=1000, help="longest completion; default %(default)s"
    )
    parser.add_argument(
        "--limit-parameter",
        choices=("max_tokens", "max_completion_tokens"),
        default="max_tokens",
        help="the name under which the endpoint knows --max-tokens; default %(default)s",
    )
    parser.add_argument("--temperature", type=float, help="default: the endpoint's")


def _positive(number: type[int] | type[float]) -> Any:
    def parse(text: str) -> int | float:
        value = number(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    parse.__name__ = f"positive {number.__name__}"  # argparse names the type in its message
    return parse


def _teach(arguments: argparse.Namespace) -> int:
    from training.data.dataset import load_dataset
    from training.teacher.journal import read_journal
    from training.teacher.plan import Plan

    config, endpoint = _config(arguments), _endpoint(arguments)
    config.check()
    # Strict: a bad row is cheaper to mend before the teacher is paid for its neighbours.
    dataset = load_dataset(arguments.data)
    plan = Plan(dataset, config, endpoint.model)
    print(plan.estimate(plan.pending(read_journal(config.journal, plan.identity))), flush=True)
    if arguments.dry_run:
        return 0
    report = asyncio.run(_asked(dataset, config, endpoint))
    print(_summary(report, config))
    return 1 if report.failed else 0


async def _asked(dataset: Dataset, config: TeachConfig, endpoint: Endpoint) -> TeachReport:
    from training.teacher.client import TeacherClient
    from training.teacher.run import teach

    async with TeacherClient(endpoint) as client:
        return await teach(dataset, config, client)


def _config(arguments: argparse.Namespace) -> TeachConfig:
    from training.teacher.cost import Prices
    from training.teacher.errors import TeacherError
    from training.teacher.plan import TeachConfig
    from training.teacher.prompts import parse_outputs

    if (arguments.price_in is None) != (arguments.price_out is None):
        raise TeacherError("--price-in and --price-out: give both or neither")
    return TeachConfig(
        out=arguments.out or arguments.data / "rcd.jsonl",
        outputs=parse_outputs(arguments.outputs),
        limit=arguments.limit,
        concurrency=arguments.concurrency,
        prices=None if arguments.price_in is None else Prices(arguments.price_in, arguments.price_out),
        max_cost=arguments.max_cost,
        retry_rejected=arguments.retry_rejected,
    )


def _endpoint(arguments: argparse.Namespace) -> Endpoint:
    from training.teacher.client import Endpoint

    return Endpoint(
        url=arguments.endpoint,
        model=arguments.model,
        structured=arguments.structured,
        timeout_s=arguments.timeout,
        attempts=arguments.attempts,
        max_tokens=arguments.max_tokens,
        limit_parameter=arguments.limit_parameter,
        temperature=arguments.temperature,
    )


def _summary(report: TeachReport, config: TeachConfig) -> str:
    cost = "" if report.cost is None else f", cost {report.cost:,.4f}"
    lines = [
        f"asked {report.asked:,} items, {report.retries:,} retries; "
        f"the journal holds {report.tokens_in:,} tokens in and {report.tokens_out:,} out{cost}",
        f"{report.items:,} items -> {config.out} ({_counts(report.accepted) or 'nothing accepted'})",
    ]
    if report.rejected:
        lines.append(f"rejected -> {config.rejected} ({_counts(report.rejected)})")
    if report.stopped_by_cost:
        lines.append("stopped by --max-cost; a higher one goes on")
    if report.failed:
        lines.append(f"{len(report.failed):,} items failed, and the same command asks for them again:")
        lines += [f"  {item_id}: {error}" for item_id, error in list(report.failed.items())[:_FAILED_SHOWN]]
    return "\n".join(lines)


def _counts(counter: Any) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())
