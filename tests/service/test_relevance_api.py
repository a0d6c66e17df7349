"""POST /relevance on a real bundle in process: right scores, or a problem document that names the field."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import RedisProcess
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from model_repo.bundle import Bundle
from model_repo.encoding import EncodedPairs
from model_repo.runtime import OnnxScorer
from service.app import create_app
from service.settings import Settings

URL = "/relevance"
ITEM = {"id": "A", "fields": {"title": "VoltPay", "keywords": ["electricity", "bill"]}}


def ready(client: TestClient) -> TestClient:
    for _ in range(200):
        if client.get("/health/ready").status_code == 200:
            return client
        time.sleep(0.05)
    raise AssertionError(client.get("/health/ready").text)


@pytest.fixture(scope="module")
def client(tiny: Bundle) -> Iterator[TestClient]:
    chosen = Settings(model_repo=tiny.path.parents[1], threads=1, max_body_bytes=400_000)
    with TestClient(create_app(chosen), raise_server_exceptions=False) as client:
        yield ready(client)


def post(client: TestClient, **body: Any) -> Any:
    response = client.post(URL, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_scores_are_those_of_the_bundle_in_the_order_of_the_request(client: TestClient, tiny: Bundle) -> None:
    items = [ITEM, {"fields": {"title": "zoo " * 300}}, "a plain string"]
    answer = post(client, query="pay my electric", items=items)
    fields = [ITEM["fields"], items[1]["fields"], {"title": "a plain string"}]  # type: ignore[index]
    expected = tiny.calibration.relevance(
        OnnxScorer(tiny, threads=1).logits(tiny.encoder.encode("pay my electric", fields))  # type: ignore[arg-type]
    )
    np.testing.assert_allclose([r["relevance"] for r in answer["results"]], expected, atol=1e-5)
    assert [r["id"] for r in answer["results"]] == ["A", "1", "2"]
    assert [r["truncated"] for r in answer["results"]] == [[], ["title"], []]
    assert answer["fingerprint"] == tiny.fingerprint
    assert answer["numerics"] == "fp32/ort-cpu"
    assert set(answer["timings_ms"]) == {"total", "cache", "tokenize", "queue", "inference"}


def test_a_repeated_pair_comes_from_the_cache_unless_no_store(client: TestClient) -> None:
    body = {"query": "cache me", "items": ["once", "once", "twice"]}
    first = post(client, **body)
    assert [r["cached"] for r in first["results"]] == [False] * 3
    assert first["results"][0]["relevance"] == first["results"][1]["relevance"]
    again = post(client, **body)
    assert [r["cached"] for r in again["results"]] == [True] * 3
    assert [r["relevance"] for r in again["results"]] == [r["relevance"] for r in first["results"]]
    fresh = client.post(URL, json=body, headers={"cache-control": "no-store"}).json()
    assert [r["cached"] for r in fresh["results"]] == [False] * 3


def test_sort_and_top_n_put_what_has_no_score_last(client: TestClient) -> None:
    answer = post(client, query="pay", items=["a", "", "b", "c"], sort=True)
    scores = [r["relevance"] for r in answer["results"]]
    assert scores[:3] == sorted(scores[:3], reverse=True)
    assert answer["results"][3]["status"] == "empty"
    assert len(post(client, query="pay", items=["a", "b", "c"], top_n=2)["results"]) == 2


def test_unknown_item_fields_are_ignored_and_listed(client: TestClient) -> None:
    plain = post(client, query="pay", items=[{"fields": {"title": "x"}}])
    odd = post(client, query="pay", items=[{"fields": {"title": "x", "colour": "red"}}])
    assert odd["ignored_fields"] == ["colour"]
    assert odd["results"][0]["relevance"] == plain["results"][0]["relevance"]


def test_explain_leaves_fields_out_one_at_a_time(client: TestClient, tiny: Bundle) -> None:
    (result,) = post(client, query="pay", items=[ITEM], explain=True)["results"]
    scorer = OnnxScorer(tiny, threads=1)
    full, without = scorer.logits(tiny.encoder.encode("pay", [ITEM["fields"], {"title": "VoltPay"}]))  # type: ignore[list-item]
    deltas = {entry["field"]: entry["logit_delta"] for entry in result["explain"]}
    assert deltas["keywords"] == pytest.approx(full - without, abs=1e-4)
    assert set(deltas) == {"title", "keywords"}


@pytest.mark.parametrize("fallback", ["none", "lexical"])
def test_at_the_deadline_the_answer_leaves_with_the_stated_fallback(
    client: TestClient, fallback: str
) -> None:
    answer = post(client, query="volt bill", items=[{"fields": {"title": f"volt {time.time()}"}}],
                  deadline_ms=0.001, fallback=fallback)  # fmt: skip
    (result,) = answer["results"]
    assert (result["status"], result["relevance"]) == ("deadline", None)
    assert result["fallback"] == {"kind": fallback, "score": 0.5 if fallback == "lexical" else None}


def test_where_no_partial_answer_is_allowed_the_deadline_is_504(client: TestClient) -> None:
    body = {"query": "q", "items": [f"late {time.time()}"], "deadline_ms": 0.001, "allow_partial": False}
    response = client.post(URL, json=body)
    assert response.status_code == 504
    assert response.headers["content-type"] == "application/problem+json"


def test_a_version_may_be_named_by_number_or_alias(client: TestClient) -> None:
    for version in ("1", "production"):
        assert post(client, query="q", items=["a"], version=version)["version"] == "1"


@pytest.mark.parametrize(("allow_partial", "status"), [(True, 200), (False, 503)])
def test_an_engine_that_fails_on_one_pair_spoils_no_other(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, allow_partial: bool, status: int
) -> None:
    original = OnnxScorer.logits

    def poisoned(self: OnnxScorer, pairs: EncodedPairs) -> object:
        if 66 in pairs.lengths:
            raise RuntimeError("poison")
        return original(self, pairs)

    with TestClient(create_app(Settings(model_repo=tiny.path.parents[1], threads=1))) as own:
        ready(own)
        monkeypatch.setattr(OnnxScorer, "logits", poisoned)
        items = ["fine", " ".join(["poison"] * 62)]  # [CLS] q [SEP] 62 words [SEP]
        response = own.post(URL, json={"query": "q", "items": items, "allow_partial": allow_partial})
    assert response.status_code == status
    if allow_partial:
        assert [r["status"] for r in response.json()["results"]] == ["scored", "error"]


LONG = "x" * 60_000
BAD = [
    ("empty query", {"query": " \t", "items": ["a"]}, 422, "query"),
    ("no query", {"items": ["a"]}, 422, "query"),
    ("no items", {"query": "a", "items": []}, 422, "items"),
    ("items missing", {"query": "a"}, 422, "items"),
    ("too many items", {"query": "a", "items": ["b"] * 10_000}, 413, "items"),
    ("unknown field", {"query": "a", "items": ["b"], "qeury": 1}, 422, "qeury"),
    ("number as query", {"query": 3, "items": ["b"]}, 422, "query"),
    ("number as item", {"query": "a", "items": [3]}, 422, "items[0]"),
    ("number as field", {"query": "a", "items": [{"fields": {"title": 3}}]}, 422, "items[0].fields.title"),
    ("number in list", {"query": "a", "items": [{"fields": {"t": ["x", 3]}}]}, 422, "items[0].fields.t[1]"),
    ("misspelt fields", {"query": "a", "items": ["b", {"feilds": {}}]}, 422, "items[1].fields"),
    ("string as flag", {"query": "a", "items": ["b"], "sort": "yes"}, 422, "sort"),
    ("negative deadline", {"query": "a", "items": ["b"], "deadline_ms": -1}, 422, "deadline_ms"),
    ("unknown fallback", {"query": "a", "items": ["b"], "fallback": "magic"}, 422, "fallback"),
    ("unknown model", {"query": "a", "items": ["b"], "model": "nope"}, 404, "model"),
    ("unknown version", {"query": "a", "items": ["b"], "version": "99"}, 404, "version"),
    ("unknown variant", {"query": "a", "items": ["b"], "variant": "blue"}, 422, "variant"),
    ("long query", {"query": LONG, "items": ["b"]}, 422, "query"),
    ("long plain item", {"query": "a", "items": ["b", LONG]}, 422, "items[1]"),
    (
        "long field",
        {"query": "a", "items": [{"fields": {"title": ["x", LONG]}}]},
        422,
        "items[0].fields.title",
    ),
    ("too much to explain", {"query": "a", "items": ["b"] * 21, "explain": True}, 422, "explain"),
]


@pytest.mark.parametrize(("body", "status", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_wrong_request_names_its_field(client: TestClient, body: object, status: int, field: str) -> None:
    response = client.post(URL, json=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["errors"][0]["field"] == field
    assert problem["request_id"] == response.headers["x-request-id"]


RAW = [
    (b"{", 400),
    (b"", 422),
    (b"[]", 422),
    (b"null", 422),
    (b'{"query": "a", "items": ["b"], "deadline_ms": NaN}', 422),
    (b'{"query": "a", "items": ["b"], "deadline_ms": 1e999}', 422),
    (b'{"query": "\\ud800", "items": ["b"]}', 422),
    (b'{"query": "a", "items": ["\\udfff"]}', 422),
    (b'{"query": "a", "items": [{"fields": {"\\ud800": "b"}}]}', 422),
    (b'{"query": "a", "items": ["b"], "x\\ud800": 1}', 422),
    (b'{"query": "a", "items": ["b"], "model": "\\ud800"}', 422),
    (b'{"query": "\xff", "items": ["b"]}', 400),
    (b"[" * 100_000, 400),
    (b'{"query": "a", "items": ["' + b"x" * 1_000_000 + b'"]}', 413),
]


@pytest.mark.parametrize(("content", "status"), RAW, ids=[repr(content[:50]) for content, _ in RAW])
def test_broken_bodies_are_4xx_problem_documents(client: TestClient, content: bytes, status: int) -> None:
    response = client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text[:300]
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.content)["detail"]


def test_a_body_without_a_length_is_limited_too(client: TestClient) -> None:
    response = client.post(URL, content=(b"x" * 100_000 for _ in range(5)))
    assert response.status_code == 413


@pytest.mark.parametrize(
    "text",
    [
        "\x00\x01bell\x07",
        "שלום עולם",
        "\u202egnirts",
        "💡🔌👨‍👩‍👧",
        "支付电费",
        "[SEP] [CLS] [MASK]",
        "a" * 5000,
        "ﷺ" * 50,
    ],
)
def test_odd_text_is_scored(client: TestClient, text: str) -> None:
    answer = post(client, query=text[:1000], items=[text])
    (result,) = answer["results"]
    assert result["status"] == "scored"
    assert 0 < result["relevance"] < 1


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", URL, 405), ("GET", "/nope", 404), ("PUT", "/", 405)]
)
def test_what_is_not_there_is_a_problem_document_too(
    client: TestClient, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


def test_a_request_id_is_kept_when_it_is_safe(client: TestClient) -> None:
    assert client.get("/health/live", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/health/live", headers={"x-request-id": "a b\t"}).headers["x-request-id"] != "a b\t"


def test_metrics_are_there_with_zeros_before_the_first_request(tiny: Bundle) -> None:
    chosen = Settings(model_repo=tiny.path.parents[1], threads=1)
    with TestClient(create_app(chosen)) as fresh:
        ready(fresh)
        text = fresh.get("/metrics").text
    assert 'cprm_requests_total{model="tiny",status="200"} 0.0' in text
    assert 'cprm_stage_seconds_bucket{le="0.001",stage="total"} 0.0' in text
    assert f'fingerprint="{tiny.fingerprint}"' in text
    assert "cprm_ready 1.0" in text


def test_answers_are_counted_by_model_and_status(client: TestClient) -> None:
    def count(model: str, status: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        name = f'cprm_requests_total{{model="{model}",status="{status}"}} '
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    before = count("tiny", "200"), count("none", "422")
    post(client, query="q", items=["a"])
    client.post(URL, json={"query": "q", "items": []})
    assert (count("tiny", "200"), count("none", "422")) == (before[0] + 1, before[1] + 1)


def test_a_corrupt_bundle_is_named_and_never_ready(own_repository: Path) -> None:
    path = own_repository / "tiny" / "1" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with TestClient(create_app(Settings(model_repo=own_repository, threads=1))) as client:
        time.sleep(1)
        response = client.get("/health/ready")
        assert response.status_code == 503
        assert "model.onnx: differs from the manifest" in response.json()["detail"]
        assert client.get("/health/live").status_code == 200
        assert client.post(URL, json={"query": "q", "items": ["a"]}).status_code == 503


def test_an_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(model_repo=tmp_path))) as client:
        time.sleep(0.2)
        assert "export one, or set CPRM_MODEL_REPO" in client.get("/health/ready").json()["detail"]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = [
    "query",
    "items",
    "deadline_ms",
    "priority",
    "sort",
    "top_n",
    "explain",
    "fallback",
    "model",
    "id",
    "fields",
]
ALMOST = st.dictionaries(
    st.sampled_from(NAMES), JSON | st.just("a") | st.just(["b", {"fields": {"title": "c"}}])
)


@given(st.one_of(JSON, ALMOST))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_body_ever_gets_a_500(client: TestClient, body: object) -> None:
    content = json.dumps(body).encode()
    response = client.post(URL, content=content, headers={"content-type": "application/json"})
    assert response.status_code in (200, 400, 404, 413, 422), (body, response.text)
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"


def test_two_services_share_scores_through_redis(tiny: Bundle, redis_process: RedisProcess) -> None:
    chosen = Settings(
        model_repo=tiny.path.parents[1],
        threads=1,
        redis_url=SecretStr(redis_process.url),
        redis_timeout_ms=500,
    )
    body = {"query": "shared", "items": ["one", "two"]}
    with TestClient(create_app(chosen)) as first, TestClient(create_app(chosen)) as second:
        fresh = ready(first).post(URL, json=body).json()
        shared = ready(second).post(URL, json=body).json()
        assert [r["cached"] for r in fresh["results"]] == [False, False]
        assert [r["cached"] for r in shared["results"]] == [True, True]
        assert [r["relevance"] for r in shared["results"]] == [r["relevance"] for r in fresh["results"]]
        redis_process.stop()
        later = second.post(URL, json={"query": "after redis died", "items": ["one"]})
        assert later.status_code == 200
        assert later.json()["results"][0]["status"] == "scored"
