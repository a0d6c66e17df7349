"""From a data set and a run config to a render spec, and from labelled pairs to encoded ones."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

from model_repo.encoding import EncodedPairs, PairEncoder
from model_repo.spec import FieldPart, QueryPart, RenderSpec, Special, SpecialIds
from model_repo.text import canonical_text
from training.config import RenderConfig
from training.data.dataset import Dataset
from training.data.pairs import LabelledPair
from training.models.checkpoint import special_id


def encoder_spec(dataset: Dataset, tokenizer: Tokenizer, config: RenderConfig) -> RenderSpec:
    """[CLS] query [SEP] field field ... [SEP], the pair form BERT was pre-trained with."""
    fields = [
        FieldPart(
            name=field.name,
            budget=config.field_budgets.get(field.name) or config.role_budgets.get(field.role, 8),
        )
        for field in dataset.card.item_fields
    ]
    eos = Special(kind="eos")
    return RenderSpec(
        template=(Special(kind="cls"), QueryPart(budget=config.query_budget), eos, *fields, eos),
        max_tokens=config.max_tokens,
        special_ids=SpecialIds(
            cls=special_id(tokenizer, "[CLS]"),
            eos=special_id(tokenizer, "[SEP]"),
            pad=special_id(tokenizer, "[PAD]"),
            mask=special_id(tokenizer, "[MASK]"),
        ),
        plain_text_field=dataset.card.plain_text_field or dataset.card.item_fields[0].name,
    )


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
