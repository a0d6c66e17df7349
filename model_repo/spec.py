"""The render spec: which parts make a pair, in which order, with how many tokens each. Plain data."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

TEMPLATE_SEGMENT = 0
QUERY_SEGMENT = 1
FIRST_FIELD_SEGMENT = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Special(_Frozen):
    """A single special token; which id it has is in `SpecialIds`."""

    kind: Literal["cls", "mask", "eos", "sop"]


class QueryPart(_Frozen):
    """The query. `budget` is the most tokens it keeps; no item, however long, takes any of them."""

    kind: Literal["query"] = "query"
    budget: int = Field(gt=0)


class FieldPart(_Frozen):
    """An item field. `budget` tokens are its own; what others leave unused is lent in template order."""

    kind: Literal["field"] = "field"
    name: str = Field(min_length=1)
    budget: int = Field(gt=0)


class LiteralPart(_Frozen):
    """Fixed text of the template, for instance the words around GLM's [MASK]."""

    kind: Literal["literal"] = "literal"
    text: str = Field(min_length=1)


Part = Annotated[Special | QueryPart | FieldPart | LiteralPart, Field(discriminator="kind")]


class SpecialIds(_Frozen):
    """Token ids of the special parts; `pad` fills the right of a batch."""

    cls: int
    eos: int
    pad: int
    mask: int | None = None
    sop: int | None = None


class RenderSpec(_Frozen):
    """Everything that decides how a pair becomes tokens, but for the tokenizer itself.

    Segment ids go by field name: 0 template, 1 query, 2... the fields in template order.
    """

    template: tuple[Part, ...]
    max_tokens: int = Field(gt=0)
    special_ids: SpecialIds
    plain_text_field: str

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = self.field_names
        if sum(part.kind == "query" for part in self.template) != 1:
            raise ValueError("template: exactly one query part is needed")
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"template: fields must be present and differ, got {names}")
        if self.plain_text_field not in names:
            raise ValueError(f"plain_text_field {self.plain_text_field!r} is not among the fields {names}")
        if any(part.kind == "sop" for part in self.template[:-1]):
            raise ValueError("template: sop is its last part; nothing behind it would be read")
        for part in self.template:
            if part.kind in ("mask", "sop") and getattr(self.special_ids, part.kind) is None:
                raise ValueError(
                    f"special_ids.{part.kind} is missing but the template has a {part.kind} part"
                )
        return self

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.template if isinstance(part, FieldPart))

    @cached_property
    def segments(self) -> dict[str, int]:
        """Segment id by field name."""
        return {name: FIRST_FIELD_SEGMENT + index for index, name in enumerate(self.field_names)}

    @cached_property
    def field_budgets(self) -> dict[str, int]:
        return {part.name: part.budget for part in self.template if isinstance(part, FieldPart)}

    @cached_property
    def query_budget(self) -> int:
        return next(part.budget for part in self.template if isinstance(part, QueryPart))

    @property
    def segment_count(self) -> int:
        return FIRST_FIELD_SEGMENT + len(self.field_names)

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Names of what can be cut, in the order of the truncation bits."""
        return ("query", *self.field_names)
