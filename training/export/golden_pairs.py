"""Choose the golden pairs of a bundle: ordinary ones from dev, and the edges where engines differ."""

from __future__ import annotations

import random

from model_repo.encoding import PairEncoder
from model_repo.golden import GoldenPair
from training.data.dataset import Dataset

_ORDINARY = 24


def choose_golden(dataset: Dataset, encoder: PairEncoder) -> list[GoldenPair]:
    """Pairs without logits yet (0.0). Deterministic for a data set."""
    rng = random.Random(0)
    dev = dataset.labels("dev")
    sample = rng.sample(dev, min(_ORDINARY, len(dev)))
    chosen = [
        GoldenPair(query=pair.query, fields=dict(dataset.items[pair.item_id].fields), logit=0.0)
        for pair in sample
    ]
    return chosen + _edges(chosen[0], encoder)


def _edges(plain: GoldenPair, encoder: PairEncoder) -> list[GoldenPair]:
    names = encoder.spec.field_names
    only = encoder.spec.plain_text_field
    long = " ".join(["relevance"] * (2 * encoder.spec.max_tokens))
    variants: dict[str, tuple[str, dict[str, str | list[str]]]] = {
        "one field empty": (plain.query, {**plain.fields, names[0]: ""}),
        "plain text only": (plain.query, {only: "a plain string"}),
        "one token each": ("a", {only: "b"}),
        "query cut": (long, dict(plain.fields)),
        "all fields cut": (plain.query, dict.fromkeys(names, long)),
        "longest pair": (long, dict.fromkeys(names, long)),
        "non-Latin script": ("支付 电费", {only: "Оплата счетов", names[-1]: "دفع الفواتير 💡"}),
        "special tokens as text": ("[SEP] [MASK]", {only: "[CLS] [PAD]"}),
    }
    return [
        GoldenPair(query=query, fields=fields, logit=0.0, note=note)
        for note, (query, fields) in variants.items()
    ]
