"""Blank infilling makes the arrays that the authors' collator made of the same documents and spans."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.glm import GOLDEN, golden, golden_specials

from training.objectives.blank import Infilled, collate_infilled, infill, infill_suffix

RECORDED = golden("collator")
SPECIAL = golden_specials()
CASES = json.loads((GOLDEN / "collator_meta.json").read_text())
MASKS = {
    "bert": SPECIAL.mask,
    "gap_sentence": SPECIAL.segment_mask,
    "sentence": SPECIAL.segment_mask,
    "generation": SPECIAL.document_mask,
    "gpt": SPECIAL.document_mask,
}
EXPLICIT = [case for case in CASES if case["kind"] == "explicit"]
WHOLE = [case for case in CASES if case["kind"] == "seeded"]


def spans_of(name: str) -> list[tuple[int, int]]:
    return [(int(start), int(stop)) for start, stop in RECORDED[name]]


def test_every_recorded_case_is_compared() -> None:
    names = {key.split(".")[0] for key in RECORDED}
    assert names == {case["name"].split(".")[0] for case in EXPLICIT + WHOLE}


@pytest.mark.parametrize("case", EXPLICIT, ids=lambda case: case["name"])
def test_given_spans_are_hidden_as_recorded(case: dict[str, str]) -> None:
    name = case["name"]
    made = infill(
        RECORDED[f"{name}.raw"], spans_of(f"{name}.spans_in_target_order"), MASKS[case["task"]], SPECIAL
    )
    np.testing.assert_array_equal(made.tokens, RECORDED[f"{name}.tokens"])
    np.testing.assert_array_equal(made.targets, RECORDED[f"{name}.targets"])
    np.testing.assert_array_equal(made.loss_mask, RECORDED[f"{name}.loss_mask"])
    np.testing.assert_array_equal(made.positions, RECORDED[f"{name}.position_ids"])
    assert made.sep == int(RECORDED[f"{name}.sep"])


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case["name"])
def test_a_collated_batch_is_the_recorded_one(case: dict[str, object]) -> None:
    name = str(case["name"])
    made = collate_infilled([_sample(case, row) for row in range(int(str(case["rows"])))])
    np.testing.assert_array_equal(made["input_ids"], RECORDED[f"{name}.text"])
    np.testing.assert_array_equal(made["loss_mask"], RECORDED[f"{name}.loss_mask"])
    np.testing.assert_array_equal(made["position_ids"], RECORDED[f"{name}.position_id"])
    np.testing.assert_array_equal(made["sep"], RECORDED[f"{name}.attention_mask"])
    np.testing.assert_array_equal(made["targets"], RECORDED[f"{name}.target"])


def _sample(case: dict[str, object], row: int) -> Infilled:
    name = str(case["name"])
    if case["num_recorded_spans"]:
        raw, spans = RECORDED[f"{name}.spans{row}.raw"], spans_of(f"{name}.spans{row}")
        return infill(raw, spans, MASKS[str(case["mode"])], SPECIAL)
    raw = RECORDED[f"{name}.raw{row}"]
    return infill_suffix(raw, int(RECORDED[f"{name}.attention_mask"][row]) - 1, SPECIAL)
