"""Contexts: close within, diverse side by side, nothing over-used, the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import tiny_checkpoint

from training.corpus.clicklog import MiningRules
from training.corpus.contexts import ClickGraph, Nodes, Vectors, greedy_path, greedy_walk, spread
from training.corpus.document import Document, Drop, DropReason
from training.corpus.icp import IcpConfig, build_icp
from training.data.dataset import Dataset
from training.data.problems import DataError
from training.models import embedding
from training.models.embedding import MINILM, MiniLmEmbedder, TextEmbedder, open_embedder


def unit(rng: np.random.Generator, nodes: int, size: int = 8) -> Vectors:
    vectors = rng.standard_normal((nodes, size), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def steps(path: Sequence[int] | Nodes, vectors: Vectors) -> float:
    """Cosines from member to member, summed: higher is closer."""
    return float(sum(vectors[a] @ vectors[b] for a, b in pairwise(path)))


def by_letters(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Texts with the same letters are close; needs no model."""
    counts = np.array([[text.lower().count(chr(97 + n)) + 0.01 for n in range(26)] for text in texts])
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def graph_of(pairs: Sequence[tuple[int, int]], vectors: Vectors, *, queries: int) -> ClickGraph:
    ends = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    similarity = np.einsum("nd,nd->n", vectors[ends[:, 0]], vectors[ends[:, 1]])
    return ClickGraph((ends[:, 0], ends[:, 1]), similarity, queries=queries, nodes=len(vectors))


def test_a_path_along_a_line_visits_it_in_order() -> None:
    angles = np.array([0.0, 1.2, 0.3, 0.9, 0.6])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert greedy_path(np.arange(5), vectors).tolist() == [0, 2, 4, 3, 1]


@given(seed=st.integers(0, 10_000), size=st.integers(2, 6))
def test_a_path_keeps_its_start_and_members_and_takes_the_closest_first_step(seed: int, size: int) -> None:
    vectors = unit(np.random.default_rng(seed), size)
    path = greedy_path(np.arange(size), vectors).tolist()
    assert path[0] == 0
    assert sorted(path) == list(range(size))
    for place, node in enumerate(path[:-1]):
        closeness = vectors[path[place + 1 :]] @ vectors[node]
        assert closeness[0] == pytest.approx(closeness.max())


def test_paths_are_closer_than_other_orders() -> None:
    rng = np.random.default_rng(0)
    gains = []
    for _ in range(50):
        vectors = unit(rng, 6)
        orders = [steps((0, *rest), vectors) for rest in permutations(range(1, 6))]
        gains.append(steps(greedy_path(np.arange(6), vectors), vectors) - float(np.mean(orders)))
    assert np.mean(np.array(gains) > 0) > 0.95
    assert np.mean(gains) > 0.5


@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(6, 11)), unique=True, max_size=20),
    seed=st.integers(0, 99),
)
def test_a_walk_visits_every_linked_node_once(pairs: list[tuple[int, int]], seed: int) -> None:
    graph = graph_of(pairs, unit(np.random.default_rng(1), 12), queries=6)
    walk = list(greedy_walk(graph, np.random.default_rng(seed)))
    assert sorted(walk) == sorted({end for pair in pairs for end in pair})
    assert walk == list(greedy_walk(graph, np.random.default_rng(seed)))


def test_a_walk_starts_where_links_are_few_and_goes_on_to_the_closest() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.6, 0.6], [0.1, 0.9]], dtype=np.float32)
    graph = graph_of([(0, 2), (0, 3), (1, 3), (1, 4), (0, 4)], vectors, queries=2)
    assert list(greedy_walk(graph, np.random.default_rng(0))) == [2, 0, 3, 1, 4]


CONTEXTS = st.lists(st.lists(st.integers(0, 30), min_size=2, max_size=4, unique=True), max_size=60)


@given(CONTEXTS, st.integers(1, 20))
def test_spreading_loses_and_adds_nothing(contexts: list[list[int]], window: int) -> None:
    made = spread([np.array(nodes) for nodes in contexts], window=window)
    assert sorted(nodes.tolist() for nodes in made) == sorted(contexts)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_no_two_contexts_side_by_side_share_a_member_where_uses_are_few(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Each node in 3 of 75 contexts of 4, neighbours sharing as much as can be: the worst order to start with.
    contexts = [nodes for block in np.arange(100).reshape(25, 4) for nodes in [rng.permutation(block)] * 3]
    made = spread(contexts, window=4 * 2)
    assert not any(set(a.tolist()) & set(b.tolist()) for a, b in pairwise(made))


def test_spreading_many_contexts_is_fast() -> None:
    rng = np.random.default_rng(0)
    made = spread(rng.integers(0, 100_000, (100_000, 4)), window=28)
    assert len(made) == 100_000  # list.pop from the front took minutes here


@pytest.fixture(scope="module")
def contexts(sample: Dataset) -> list[Document | Drop]:
    return list(build_icp(sample, IcpConfig(), embed=by_letters, seed=0))


def texts_of(made: Document) -> list[str]:
    return [s.text for s in made.segments if s.name in ("query", "title")]


def test_contexts_hold_queries_and_the_title_and_category_of_items(contexts: list[Document | Drop]) -> None:
    documents = [made for made in contexts if isinstance(made, Document)]
    assert len(documents) > 700
    assert {segment.name for made in documents for segment in made.segments} == {"query", "title", "category"}
    names = [Counter(segment.name for segment in made.segments) for made in documents]
    assert max(count["query"] for count in names) == 4
    assert max(count["title"] for count in names) == 3
    assert np.mean([count["query"] > 0 and count["title"] > 0 for count in names]) > 0.4


def test_neighbours_in_a_context_are_closer_than_in_a_shuffled_one(contexts: list[Document | Drop]) -> None:
    rng = np.random.default_rng(0)
    ordered, shuffled = [], []
    for made in contexts:
        if isinstance(made, Document) and len(texts_of(made)) > 3:
            vectors = by_letters(texts_of(made))
            ordered.append(steps(range(len(vectors)), vectors))
            shuffled.append(steps(rng.permutation(len(vectors)), vectors))
    assert np.mean(ordered) > np.mean(shuffled)


def test_adjacent_contexts_share_no_query_and_no_item(contexts: list[Document | Drop]) -> None:
    documents = [made for made in contexts if isinstance(made, Document)]
    assert not any(set(texts_of(a)) & set(texts_of(b)) for a, b in pairwise(documents))


def test_no_query_is_used_more_often_than_allowed(contexts: list[Document | Drop]) -> None:
    used = Counter(
        s.text for made in contexts if isinstance(made, Document) for s in made.segments if s.name == "query"
    )
    assert max(used.values()) <= IcpConfig().max_uses


def test_the_same_seed_gives_the_same_contexts(sample: Dataset, contexts: list[Document | Drop]) -> None:
    assert list(build_icp(sample, IcpConfig(), embed=by_letters, seed=0)) == contexts
    assert list(build_icp(sample, IcpConfig(), embed=by_letters, seed=1)) != contexts


def test_thresholds_of_a_large_log_are_plain_values(sample: Dataset) -> None:
    config = IcpConfig.model_validate({"min_impressions": 100, "min_ctr": 0.2})
    drops = [made for made in build_icp(sample, config, embed=by_letters, seed=0) if isinstance(made, Drop)]
    assert next(drop.count for drop in drops if drop.reason is DropReason.FEW_IMPRESSIONS) > 100_000
    assert isinstance(config, MiningRules)


def test_a_log_without_pairs_gives_no_contexts(sample: Dataset) -> None:
    config = IcpConfig(min_impressions=10**9)
    assert not [
        made for made in build_icp(sample, config, embed=by_letters, seed=0) if isinstance(made, Document)
    ]


def test_any_checkpoint_folder_embeds_and_company_changes_nothing(tmp_path: Path) -> None:
    embed = open_embedder(str(tiny_checkpoint(tmp_path / "tiny")))
    together = embed(["gas bill", "a much longer text about paying for gas", "gas bill"])
    assert together.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = TextEmbedder(tmp_path / "tiny")(["gas bill"])
    np.testing.assert_allclose(together[[0, 2]], np.repeat(alone, 2, axis=0), atol=1e-5)
    assert embed([]).shape == (0, 32)


def test_the_default_embedder_is_minilm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(embedding, "minilm_path", lambda: tiny_checkpoint(tmp_path / "tiny"))
    assert IcpConfig().embedder == MINILM
    assert isinstance(open_embedder(MINILM), MiniLmEmbedder)
    assert open_embedder(MINILM)(["x"]).shape == (1, 32)


def test_an_embedder_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*minilm"):
        open_embedder(str(tmp_path / "nowhere"))(["x"])
