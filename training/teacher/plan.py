"""Which items are still to be asked, and with which request. Reads the data set and the journal; asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from model_repo.text import canonical_text
from training.data.dataset import Dataset
from training.teacher.cost import Estimate, Prices, estimate
from training.teacher.errors import TeacherError
from training.teacher.journal import JournalIdentity, JournalLine
from training.teacher.prompts import (
    OUTPUTS,
    PROMPT_VERSION,
    Message,
    OutputName,
    item_digest,
    item_text,
    messages_for,
)
from training.teacher.rules import Judge, Judged


@dataclass(frozen=True, slots=True)
class TeachConfig:
    """What is asked of the teacher. `limit`: the first so many items of the data set, done ones counted."""

    out: Path
    outputs: tuple[OutputName, ...] = OUTPUTS
    limit: int | None = None
    concurrency: int = 8
    prices: Prices | None = None
    max_cost: float | None = None
    """Counted over the whole journal; calls in flight are finished, so it may be passed by their cost."""
    max_failures: int = 10
    """So many failed calls in a row end the job: the endpoint is down, not an item odd."""
    retry_rejected: bool = False
    """Ask again where nothing of a completion could be used."""

    @property
    def journal(self) -> Path:
        return self.out.with_name(f"{_stem(self.out)}.journal.jsonl")

    @property
    def rejected(self) -> Path:
        return self.out.with_name(f"{_stem(self.out)}.rejected.jsonl")

    def check(self) -> None:
        """Raises TeacherError for settings that contradict each other and for completions of another origin."""
        if self.max_cost is not None and self.prices is None:
            raise TeacherError("--max-cost needs --price-in and --price-out")
        if self.out.suffix != ".jsonl":
            raise TeacherError(f"--out {self.out}: name a .jsonl file")
        for path in (self.out, self.out.with_name(self.out.name + ".gz")):
            if path.exists() and not self.journal.exists():
                raise TeacherError(
                    f"{path}: was not made by this command and is kept; name another file with --out"
                )


class Plan:
    """The items of a data set with their prompts, and what a journal already holds of them."""

    def __init__(self, dataset: Dataset, config: TeachConfig, model: str) -> None:
        self.config = config
        self._dataset = dataset
        self._texts = {key: item_text(item, dataset.card) for key, item in dataset.items.items()}
        self.identity = JournalIdentity(
            model=model,
            prompt_version=PROMPT_VERSION,
            language=dataset.card.language,
            outputs=config.outputs,
        )

    def messages(self, item_id: str) -> list[Message]:
        """The request for one item."""
        return messages_for(self._texts[item_id], self.identity.language, self.config.outputs)

    def digest(self, item_id: str) -> str:
        """Names the item's text as it is now."""
        return item_digest(self._texts[item_id])

    def pending(self, lines: Iterable[JournalLine]) -> list[str]:
        """Item ids still to be asked, in the data set's order."""
        lines = list(lines)
        done: Set[str] = self.current(lines).keys()
        if self.config.retry_rejected:
            done = {key for key, judged in self.judged(lines).items() if judged.accepted}
        return [key for key in islice(self._texts, self.config.limit) if key not in done]

    def current(self, lines: Iterable[JournalLine]) -> dict[str, JournalLine]:
        """The newest completion of every item as it is now, in the data set's order."""
        newest = {line.item_id: line for line in lines}
        return {
            key: newest[key]
            for key in self._texts
            if key in newest and newest[key].item_digest == self.digest(key)
        }

    def judged(self, lines: Iterable[JournalLine]) -> dict[str, Judged]:
        """What the rules make of the current completions."""
        judge = Judge(self.identity.language, self.config.outputs)
        return {
            key: judge.judge(
                line.content, title=self._title(key), finish_reason=line.finish_reason, refusal=line.refusal
            )
            for key, line in self.current(lines).items()
        }

    def estimate(self, pending: Sequence[str]) -> Estimate:
        """What asking for these items will cost."""
        return estimate(map(self.messages, pending), self.config.outputs, self.config.prices)

    def _title(self, item_id: str) -> str:
        return canonical_text(
            self._dataset.items[item_id].fields.get(self._dataset.card.item_fields[0].name, "")
        )


def _stem(out: Path) -> str:
    return out.name.removesuffix(".jsonl")
