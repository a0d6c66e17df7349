"""The job: what it asks, what it never asks twice, and what its files hold."""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.teacher import FakeTeacher, answer, asked_item, completion, refused, shop

from training.cli import main
from training.data.dataset import load_dataset
from training.teacher.cost import Estimate, Prices, count_tokens
from training.teacher.errors import TeacherError
from training.teacher.plan import Plan, TeachConfig
from training.teacher.run import TeachReport, teach

PRICES = Prices(per_million_in=1000.0, per_million_out=4000.0)
"""One completion of the fake teacher costs 0.1 + 0.2."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shop(tmp_path / "shop")


def run(
    folder: Path, teacher: FakeTeacher, *, client: dict[str, Any] | None = None, **config: Any
) -> TeachReport:
    settings = TeachConfig(out=folder / "rcd.jsonl", **({"concurrency": 2} | config))

    async def job() -> TeachReport:
        async with teacher.client(first_wait_s=0.001, **(client or {})) as open_client:
            return await teach(load_dataset(folder), settings, open_client)

    return asyncio.run(job())


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def failing(numbers: set[str], outcome: httpx2.Response) -> FakeTeacher:
    return FakeTeacher(
        lambda request: outcome if asked_item(request) in numbers else completion(answer(asked_item(request)))
    )


def test_the_files_are_a_data_set_again(folder: Path) -> None:
    report = run(folder, FakeTeacher())
    assert rows(folder / "rcd.jsonl") == [{"item_id": f"i{n}", **answer(n)} for n in range(6)]
    assert (folder / "rcd.rejected.jsonl").read_text() == ""
    assert len(load_dataset(folder).completions()) == 6
    assert (report.asked, report.items, report.tokens_in, report.tokens_out) == (6, 6, 600, 300)
    first = rows(folder / "rcd.journal.jsonl")[0]
    assert (first["model"], first["prompt_version"], first["prompt_tokens"]) == ("teacher-1", "1", 100)


def test_a_finished_job_asks_nothing(folder: Path) -> None:
    run(folder, FakeTeacher())
    before = (folder / "rcd.jsonl").read_bytes()
    again = FakeTeacher()
    assert run(folder, again).asked == 0
    assert again.asked == []
    assert (folder / "rcd.jsonl").read_bytes() == before


@pytest.mark.parametrize("crash_at", range(1, 7))
def test_after_a_crash_no_received_completion_is_asked_for_again(folder: Path, crash_at: int) -> None:
    received: list[str] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        if len(received) == crash_at - 1:
            raise KeyboardInterrupt  # leaves the event loop at once, as a crash does
        received.append(asked_item(request))
        return completion(answer(received[-1]))

    with pytest.raises(KeyboardInterrupt):
        run(folder, FakeTeacher(handle), concurrency=1)
    assert not (folder / "rcd.jsonl").exists()
    resumed = FakeTeacher()
    run(folder, resumed)
    assert sorted(received + resumed.asked) == [str(n) for n in range(6)]
    assert len(rows(folder / "rcd.jsonl")) == 6


def test_an_item_that_changed_is_asked_again_and_the_newer_completion_counts(folder: Path) -> None:
    run(folder, FakeTeacher())
    items = folder / "items.jsonl"
    items.write_text(items.read_text().replace("pays bill 3", "pays the rent"))
    again = FakeTeacher(lambda request: completion(answer("of the landlord")))
    run(folder, again)
    assert again.asked == ["3"]
    assert "landlord" in rows(folder / "rcd.jsonl")[3]["summary"]


def test_a_limit_is_of_the_data_set_and_rows_stay_in_its_order(folder: Path) -> None:
    for limit, asked in ((2, ["0", "1"]), (2, []), (4, ["2", "3"])):
        teacher = FakeTeacher()
        run(folder, teacher, limit=limit)
        assert sorted(teacher.asked) == asked
    assert [row["item_id"] for row in rows(folder / "rcd.jsonl")] == ["i0", "i1", "i2", "i3"]


def test_outputs_that_are_off_are_absent_and_the_reader_takes_it(folder: Path) -> None:
    teacher = FakeTeacher(
        lambda r: completion({key: answer(asked_item(r))[key] for key in ("summary", "queries")})
    )
    report = run(folder, teacher, outputs=("summary", "queries"))
    assert all(row.keys() == {"item_id", "summary", "queries"} for row in rows(folder / "rcd.jsonl"))
    assert report.accepted == {"summary": 6, "queries": 6}
    assert load_dataset(folder).completions()[0].paraphrase is None


def test_rejected_completions_are_kept_with_reasons_and_not_asked_again(folder: Path) -> None:
    run(folder, failing({"1", "4"}, completion("I cannot help with that.")))
    assert rows(folder / "rcd.rejected.jsonl")[0] == {
        "item_id": "i1", "output": "completion", "reason": "refusal", "text": "I cannot help with that.",
    }  # fmt: skip
    assert len(rows(folder / "rcd.jsonl")) == 4
    again = FakeTeacher()
    assert run(folder, again).rejected == {"refusal": 2}
    assert again.asked == []


def test_rejected_completions_are_asked_again_on_request(folder: Path) -> None:
    run(folder, failing({"1", "4"}, completion("{", finish_reason="length")))
    again = FakeTeacher()
    report = run(folder, again, retry_rejected=True)
    assert sorted(again.asked) == ["1", "4"]
    assert (report.items, report.rejected) == (6, {})


def test_a_failed_item_is_reported_and_asked_again_by_the_next_run(folder: Path) -> None:
    report = run(folder, failing({"2"}, refused(400, "too long")))
    assert report.failed == {"i2": "HTTP 400: too long"}
    assert len(rows(folder / "rcd.jsonl")) == 5
    again = FakeTeacher()
    run(folder, again)
    assert again.asked == ["2"]


def test_an_endpoint_that_is_down_ends_the_job(folder: Path) -> None:
    down = FakeTeacher(lambda _: refused(503, "restarting"))
    with pytest.raises(TeacherError, match=r"2 calls in a row failed, the last with: HTTP 503.*goes on"):
        run(folder, down, max_failures=2, concurrency=1, client={"attempts": 2})
    assert len(down.requests) == 4
    with pytest.raises(TeacherError, match="no completion was received; the last call: HTTP 503"):
        run(folder, down, client={"attempts": 1})
    assert not (folder / "rcd.jsonl").exists()


def test_a_fatal_refusal_stops_all_workers_and_keeps_what_came(folder: Path) -> None:
    teacher = failing({"2"}, refused(402, "no credit"))
    with pytest.raises(TeacherError, match="HTTP 402"):
        run(folder, teacher, concurrency=1)
    assert teacher.asked == ["0", "1", "2"]
    again = FakeTeacher()
    run(folder, again)
    assert sorted(again.asked) == ["2", "3", "4", "5"]


def test_calls_in_flight_are_finished_when_the_job_must_end(folder: Path) -> None:
    """The slow completion is paid for, so it must reach the journal though a neighbour was refused."""

    async def handle(request: httpx2.Request) -> httpx2.Response:
        if asked_item(request) == "1":
            return refused(401)
        await asyncio.sleep(0.1)
        return completion(answer(asked_item(request)))

    with pytest.raises(TeacherError, match="HTTP 401"):
        run(folder, FakeTeacher(handle))  # type: ignore[arg-type]
    assert [row["item_id"] for row in rows(folder / "rcd.journal.jsonl")] == ["i0"]


def test_a_full_disk_ends_the_job_in_one_line_and_the_next_run_goes_on(folder: Path) -> None:
    # In the middle of a line; neighbours are in flight then and try to write too.
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    try:
        with pytest.raises(TeacherError, match=r"rcd\.journal\.jsonl: the disk is full"):
            run(folder, FakeTeacher(), concurrency=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    kept = len(rows(folder / "rcd.journal.jsonl"))
    assert 0 < kept < 6
    again = FakeTeacher()
    assert run(folder, again).items == 6
    assert len(again.asked) == 6 - kept


def test_no_more_calls_at_a_time_than_asked_for(folder: Path) -> None:
    running, most = 0, 0

    async def handle(request: httpx2.Request) -> httpx2.Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return completion(answer(asked_item(request)))

    run(folder, FakeTeacher(handle), concurrency=3)  # type: ignore[arg-type]
    assert most == 3


def test_the_job_stops_when_the_measured_cost_passes_the_limit(folder: Path) -> None:
    teacher = FakeTeacher()
    report = run(folder, teacher, prices=PRICES, max_cost=0.5, concurrency=1)
    assert report.stopped_by_cost
    assert report.cost == pytest.approx(0.6)
    assert len(rows(folder / "rcd.jsonl")) == 2
    # The limit is of the journal, not of one run: starting again does not renew it.
    assert run(folder, teacher, prices=PRICES, max_cost=0.5).asked == 0
    assert not run(folder, teacher, prices=PRICES, max_cost=1.8).stopped_by_cost
    assert len(teacher.asked) == 6


def test_usage_is_counted_roughly_where_the_server_reports_none(folder: Path) -> None:
    run(folder, FakeTeacher(lambda r: completion(answer(asked_item(r)), usage=False)), limit=1)
    [line] = rows(folder / "rcd.journal.jsonl")
    assert line["usage_estimated"] is True
    assert line["completion_tokens"] == count_tokens(line["content"])
    assert 300 < line["prompt_tokens"] < 600


def test_another_model_is_refused_and_completions_of_others_are_kept(folder: Path) -> None:
    run(folder, FakeTeacher())
    with pytest.raises(TeacherError, match=r"made with model teacher-1, this run has teacher-2.*--out"):
        run(folder, FakeTeacher(), client={"model": "teacher-2"})
    (folder / "rcd.journal.jsonl").unlink()
    before = (folder / "rcd.jsonl").read_bytes()
    with pytest.raises(TeacherError, match=r"rcd\.jsonl: was not made by this command"):
        run(folder, FakeTeacher())
    assert (folder / "rcd.jsonl").read_bytes() == before


def test_the_estimate_counts_what_is_still_to_be_asked(folder: Path) -> None:
    config = TeachConfig(out=folder / "rcd.jsonl", prices=PRICES)
    plan = Plan(load_dataset(folder), config, "teacher-1")
    half = plan.estimate(plan.pending([])[:3])
    assert (half.items, half.tokens_out) == (3, 750)
    assert half.cost == pytest.approx((half.tokens_in * 1000 + 750 * 4000) / 1e6)
    assert str(Estimate(1, 2000, 3, None)) == "1 items to ask, about 2,000 tokens in and 3 out"
    assert str(Estimate(1, 2, 3, 4.5)).endswith(", cost about 4.50")


COMMAND = ["teach", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"]


def test_a_dry_run_prints_the_estimate_and_asks_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(folder), "--dry-run", "--limit", "2", "--price-in", "1", "--price-out", "2"]
    assert main([*COMMAND, *arguments]) == 0
    assert capsys.readouterr().out.startswith("2 items to ask, about ")
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "items.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-cost", "1"], "--max-cost needs --price-in and --price-out"),
        (["--price-in", "1"], "--price-in and --price-out: give both or neither"),
        (["--outputs", "summary,poem"], "--outputs: poem; choose among"),
        (["--out", "rcd.json"], "--out rcd.json: name a .jsonl file"),
        (["--endpoint", "teacher"], "--endpoint 'teacher': write it like"),
        (["--attempts", "1"], "no completion was received; the last call: "),
    ],
)
def test_a_wrong_setting_is_one_line(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--data", str(folder), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"cprm-train: {message}")
    assert error.count("\n") == 1


def test_a_number_that_makes_no_sense_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*COMMAND, "--data", str(folder), "--limit", "0"])
    assert "invalid positive int value: '0'" in capsys.readouterr().err
