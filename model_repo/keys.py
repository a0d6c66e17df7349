"""What makes two pairs interchangeable: digests over canonical, length-delimited field bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

from model_repo.spec import RenderSpec
from model_repo.text import FieldValue, canonical_text


def query_key(query: str) -> str:
    """Digest of a query, 32 hex characters."""
    return _digest([query])


def item_key(spec: RenderSpec, fields: Mapping[str, FieldValue]) -> str:
    """Digest of an item's fields, 32 hex characters.

    Every text is preceded by its length in bytes, so ("ab", "c") and ("a", "bc") differ. Only fields of the
    spec count, in its order: what the model does not read does not split the cache.
    """
    return _digest(fields.get(name, "") for name in spec.field_names)


def _digest(values: Iterable[FieldValue]) -> str:
    state = blake2b(digest_size=16)
    for value in values:
        data = canonical_text(value).encode()
        state.update(len(data).to_bytes(4, "little"))
        state.update(data)
    return state.hexdigest()
