"""The parts of a render spec that follow from the data set, and labelled pairs as encoded ones."""

from __future__ import annotations

from collections.abc import Sequence

from model_repo.encoding import EncodedPairs, PairEncoder
from model_repo.spec import FieldPart
from model_repo.text import canonical_text
from training.config import RenderConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair


def field_parts(dataset: Dataset, config: RenderConfig) -> tuple[FieldPart, ...]:
    """The item's fields in the card's order, each with its budget: by name, else by role, else 8 tokens."""
    return tuple(
        FieldPart(
            name=field.name,
            budget=config.field_budgets.get(field.name) or config.role_budgets.get(field.role, 8),
        )
        for field in dataset.card.item_fields
    )


def plain_text_field(dataset: Dataset) -> str:
    """Where an item that is one string goes."""
    return dataset.card.plain_text_field or dataset.card.item_fields[0].name


class PairSource:
    """Encodes labelled pairs of one data set; every query and item is tokenised once."""

    def __init__(self, dataset: Dataset, encoder: PairEncoder) -> None:
        self.encoder = encoder
        ids = list(dataset.items)
        tokens = encoder.tokenise_items([dataset.items[item_id].fields for item_id in ids])
        self._items = dict(zip(ids, tokens, strict=True))
        self._queries: dict[str, list[int]] = {}

    def encode(self, pairs: Sequence[LabelledPair]) -> EncodedPairs:
        new = [q for q in dict.fromkeys(pair.query for pair in pairs) if q not in self._queries]
        if new:
            self._queries.update(zip(new, self.encoder.tokenise(list(map(canonical_text, new))), strict=True))
        return self.encoder.join((self._queries[pair.query], self._items[pair.item_id]) for pair in pairs)
