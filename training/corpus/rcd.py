"""RCD: what a teacher model wrote about an item, joined with the item.

Source: CPRM (arXiv 2412.01269), reading comprehension distillation.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from model_repo.text import canonical_text
from training.corpus.document import QUERY, Builder, Document, Drop, DropReason, Segment
from training.data.dataset import Completion, Dataset, Item, query_key


class RcdConfig(BaseModel):
    """Which outputs of the teacher become documents; an output that was not recorded is passed over."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: bool = True
    paraphrase: bool = True
    background: bool = True
    queries: bool = True
    explanations: bool = True
    min_words: int = Field(default=2, ge=1)
    """Shorter prose is a refusal or a fragment; queries may be of one word."""


def build_rcd(dataset: Dataset, config: RcdConfig, *, seed: int) -> Builder:
    """One document an output, in shuffled order: the item's fields beside what was said of it.

    Prose goes under the segment of the data set's first body field, which it rewords; queries under the query's.
    """
    rng = np.random.default_rng(seed)
    completions, held_out = dataset.completions(), dataset.held_out_queries()
    for index in rng.permutation(len(completions)):
        completion = completions[int(index)]
        item = dataset.items.get(completion.item_id)
        if item is None:
            yield Drop("rcd", completion.item_id, DropReason.UNKNOWN_ITEM, "not in items")
            continue
        fields = _item_fields(dataset, item)
        for name, segments in _outputs(completion, _body(dataset), config):
            drop = _refuse(name, segments, fields[0], config, held_out)
            if drop:
                yield Drop("rcd", completion.item_id, drop, f"{name}: {segments[0].text[:80]!r}")
            else:
                yield Document("rcd", f"{completion.item_id}:{name}", (*fields, *segments))


def _item_fields(dataset: Dataset, item: Item) -> tuple[Segment, ...]:
    """The first field always, others where they hold text."""
    names = [field.name for field in dataset.card.item_fields]
    texts = [(name, canonical_text(item.fields.get(name, ""))) for name in names]
    return tuple(
        Segment(name, text, item.item_id) for place, (name, text) in enumerate(texts) if text or not place
    )


def _body(dataset: Dataset) -> str:
    fields = dataset.card.item_fields
    return next((field.name for field in fields if field.role == "body"), fields[0].name)


def _outputs(
    completion: Completion, body: str, config: RcdConfig
) -> Iterator[tuple[str, tuple[Segment, ...]]]:
    for name in ("summary", "paraphrase", "background"):
        prose = getattr(completion, name)
        if prose is not None and getattr(config, name):
            yield name, (Segment(body, canonical_text(prose)),)
    if config.queries:
        for number, entry in enumerate(completion.queries, start=1):
            said = (Segment(body, canonical_text(entry.explanation)),) if config.explanations else ()
            yield f"query-{number}", (Segment(QUERY, canonical_text(entry.query)), *said)


def _refuse(
    name: str, segments: tuple[Segment, ...], title: Segment, config: RcdConfig, held_out: Set[str]
) -> DropReason | None:
    text = segments[0].text
    if segments[0].name == QUERY and query_key(text) in held_out:
        return DropReason.HELD_OUT_QUERY
    if len(text.split()) < (1 if name.startswith("query") else config.min_words):
        return DropReason.TOO_SHORT
    return DropReason.COPIES_TITLE if text.casefold() == title.text.casefold() else None
