"""Golden pairs: pairs with the logits of fp32 PyTorch, replayed wherever a bundle is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from model_repo.encoding import EncodedPairs, PairEncoder

LogitsFn = Callable[[EncodedPairs], npt.NDArray[np.float32]]
DEFAULT_TOLERANCE = 2e-3


class GoldenPair(BaseModel):
    """A pair and the logit it must have. `note` says which edge it stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    query: str
    fields: dict[str, str | list[str]]
    logit: float
    note: str = ""


class GoldenReport(BaseModel):
    """Outcome of a replay; differences are absolute, in logits."""

    ok: bool
    max_abs_diff: float
    detail: str


def replay(
    golden: Sequence[GoldenPair],
    encoder: PairEncoder,
    logits_fn: LogitsFn,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
) -> GoldenReport:
    """Score every golden pair alone and all in one batch; both must lie within `tolerance` of the record."""
    pairs = EncodedPairs.concat([encoder.encode(pair.query, [pair.fields]) for pair in golden])
    expected = np.array([pair.logit for pair in golden])
    together = logits_fn(pairs)
    alone = np.concatenate([logits_fn(pairs.take([row])) for row in range(len(pairs))])
    if together.shape != expected.shape or alone.shape != expected.shape:
        detail = f"{len(golden)} golden pairs gave {together.shape} and {alone.shape} logits"
        return GoldenReport(ok=False, max_abs_diff=float("inf"), detail=detail)
    diffs = np.maximum(np.abs(together - expected), np.abs(alone - expected))
    worst = int(np.argmax(np.where(np.isnan(diffs), np.inf, diffs)))
    ok = bool(diffs[worst] <= tolerance)  # NaN compares false
    detail = (
        f"golden pair {worst + 1} of {len(golden)}: expected {expected[worst]:.6f}, in a batch "
        f"{together[worst]:.6f}, alone {alone[worst]:.6f} (tolerance {tolerance:g})"
    )
    return GoldenReport(ok=ok, max_abs_diff=float(diffs[worst]), detail=detail)


def read_golden(path: Path) -> list[GoldenPair]:
    """Raises ValueError naming the line of the first bad pair, or an empty file."""
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            pairs.append(GoldenPair.model_validate_json(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    if not pairs:
        raise ValueError(f"{path}: no golden pairs; a bundle cannot be admitted without any")
    return pairs


def write_golden(path: Path, pairs: Sequence[GoldenPair]) -> None:
    lines = [json.dumps(pair.model_dump(exclude_defaults=True), ensure_ascii=False) for pair in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
