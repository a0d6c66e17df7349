"""Bodies of POST /relevance, in and out."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag

# Tags of union branches; the error paths shown to callers leave them out.
UNION_TAGS = frozenset({"@string", "@list", "@object"})


def _text_or_list(value: Any) -> str:
    return "@list" if isinstance(value, list) else "@string"


def _text_or_object(value: Any) -> str:
    return "@string" if isinstance(value, str) else "@object"


def _encodable(text: str) -> str:
    """JSON can spell half a surrogate pair; no tokenizer, hash or answer can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"has half a surrogate pair at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
FieldText = Annotated[
    Annotated[Text, Tag("@string")] | Annotated[list[Text], Tag("@list")], Discriminator(_text_or_list)
]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ItemIn(_Strict):
    """An item by its fields. Fields that the model does not know are ignored and listed in the answer."""

    id: Text | None = Field(
        None, max_length=512, description="Your id; default: the item's place in the request."
    )
    fields: dict[Text, FieldText] = Field(description="Text, or list of texts, by field name.")


Item = Annotated[
    Annotated[Text, Tag("@string")] | Annotated[ItemIn, Tag("@object")], Discriminator(_text_or_object)
]

EXAMPLE: dict[str, Any] = {
    "query": "pay my electric",
    "items": [
        {
            "id": "A0001",
            "fields": {
                "title": "VoltPay Bills",
                "keywords": ["electricity bill"],
                "category": "Utility bills",
            },
        },
        "a plain string",
    ],
}


class RelevanceRequest(_Strict):
    """One query and its candidate items."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [EXAMPLE]}
    )

    query: Text = Field(description="What the user typed.")
    items: list[Item] = Field(min_length=1, description="Items by fields, or plain strings.")
    model: Text | None = Field(None, description="Bundle name; default CPRM_DEFAULT_MODEL.")
    version: Text | None = Field(None, description="Version or alias; default production.")
    unit: Text | None = Field(None, description="User or session for A/B assignment.")
    variant: str | None = Field(
        None, description="Explicit variant; only `control` exists without an experiment."
    )
    page_id: Text | None = Field(None, description="Page view that the request belongs to.")
    deadline_ms: float | None = Field(
        None, gt=0, description="From receipt; then the answer leaves as it is."
    )
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first.")
    allow_partial: bool = Field(True, description="False: 504 instead of a partial answer at the deadline.")
    fallback: Literal["cached", "lexical", "none"] = Field("none", description="Stands in for late scores.")
    sort: bool = Field(False, description="Most relevant first instead of the order of the request.")
    top_n: int | None = Field(None, ge=1, description="Only the first n results of the answer.")
    explain: bool = Field(False, description="Logit change by field left out; at most 20 items.")


class FallbackOut(BaseModel):
    kind: Literal["cached", "lexical", "none"]
    score: float | None


class ExplanationOut(BaseModel):
    field: str
    logit_delta: float


class ResultOut(BaseModel):
    """`relevance` is the calibrated probability that the item is relevant; null unless scored."""

    id: str
    relevance: float | None
    grade: str | None = None
    status: Literal["scored", "deadline", "empty", "error"]
    cached: bool = False
    truncated: list[str] = []
    tokens: int | None = None
    fallback: FallbackOut | None = None
    explain: list[ExplanationOut] | None = None


class TimingsOut(BaseModel):
    total: float
    cache: float
    tokenize: float
    queue: float
    inference: float


class RelevanceResponse(BaseModel):
    """Scores with all it takes to tell where they came from."""

    request_id: str
    model: str
    version: str
    fingerprint: str
    numerics: str
    experiment: str | None = None
    variant: str = "control"
    page_id: Text | None = None
    results: list[ResultOut]
    ignored_fields: list[str] = []
    timings_ms: TimingsOut


class ProblemField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """RFC 9457 problem document."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemField] = []
