"""Contexts over a click graph: a greedy walk chooses anchors, a greedy path orders members, adjacent ones differ.

Nodes are integers with unit vectors; queries come before items. Knows neither texts nor documents.
Source: greedy path as in In-Context Pretraining (Shi et al. 2023), algorithm 1; caps and windows are ours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Nodes = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
_BRIDGES = 16
"""Neighbours over which the step beyond goes; the closest ones."""


class ClickGraph:
    """Undirected: each node's neighbours, closest first, in one array."""

    def __init__(
        self, ends: tuple[Nodes, Nodes], similarity: npt.NDArray[np.float32], *, queries: int, nodes: int
    ) -> None:
        """Edges in order of clicks, which decides between neighbours that are equally close."""
        origins = np.concatenate(ends)
        order = np.lexsort((-np.concatenate([similarity, similarity]), origins))
        self._targets = np.concatenate(ends[::-1])[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(origins, minlength=nodes))])
        self.queries = queries

    @property
    def degrees(self) -> Nodes:
        return np.diff(self._starts)

    def near(self, node: int) -> Nodes:
        return self._targets[self._starts[node] : self._starts[node + 1]]

    def is_query(self, node: int) -> bool:
        return node < self.queries


def greedy_walk(graph: ClickGraph, rng: np.random.Generator) -> Iterator[int]:
    """Every linked node once: on to the closest node not yet visited, at a dead end to one with fewest links.

    Starting with few links keeps nodes that hang by one link from being left alone. Linear in links.
    """
    degrees = graph.degrees
    shuffled = rng.permutation(np.flatnonzero(degrees))
    visited = np.zeros(len(degrees), dtype=bool)
    for start in shuffled[np.argsort(degrees[shuffled], kind="stable")]:
        node = int(start)
        while not visited[node]:
            visited[node] = True
            yield node
            near = graph.near(node)
            fresh = near[~visited[near]]
            node = int(fresh[0]) if len(fresh) else node


class Uses:
    """How many contexts each node is in, and the most it may be in."""

    def __init__(self, nodes: int, most: int) -> None:
        self._counts = np.zeros(nodes, dtype=np.int64)
        self._most = most

    def free(self, nodes: Nodes) -> Nodes:
        return nodes[self._counts[nodes] < self._most]

    def add(self, nodes: Nodes) -> None:
        self._counts[nodes] += 1


def members_of(
    anchor: int,
    graph: ClickGraph,
    vectors: Vectors,
    uses: Uses,
    *,
    max_near: int,
    max_beyond: int,
    min_similarity: float,
) -> Nodes:
    """The anchor, its closest neighbours, and the closest of their neighbours, which are of the anchor's kind."""
    links = graph.near(anchor)
    # A neighbour that has no uses left still leads to its own.
    around = dict.fromkeys(node for link in links[:_BRIDGES] for node in graph.near(int(link)).tolist())
    around.pop(anchor, None)
    near = uses.free(links)[:max_near]
    beyond = uses.free(np.fromiter(around, np.int64, len(around)))
    closeness = vectors[beyond] @ vectors[anchor]
    order = np.argsort(-closeness, kind="stable")[:max_beyond]
    close = beyond[order[closeness[order] >= min_similarity]]
    return np.concatenate([np.array([anchor], dtype=np.int64), near, close])


def greedy_path(members: Nodes, vectors: Vectors) -> Nodes:
    """From the first member always on to the closest one not yet visited."""
    similarity = vectors[members] @ vectors[members].T
    path = [0]
    for _ in range(len(members) - 1):
        similarity[:, path[-1]] = -np.inf
        path.append(int(similarity[path[-1]].argmax()))
    return members[path]


def spread(contexts: Iterable[Nodes], *, window: int) -> list[Nodes]:
    """Reorder so that a context shares no member with the one before.

    Always succeeds while more than `window` contexts wait and none meets more than `window` others; what is left
    at the end goes between earlier contexts where it fits. Linear in contexts times window.
    """
    placed: list[Nodes] = []
    stuck: list[Nodes] = []
    waiting: deque[Nodes] = deque()
    stream = iter(contexts)
    while True:
        while len(waiting) <= window and (more := next(stream, None)) is not None:
            waiting.append(more)
        if not waiting:
            break
        last = set(placed[-1].tolist()) if placed else set()
        fit = next((place for place, nodes in enumerate(waiting) if last.isdisjoint(nodes.tolist())), None)
        if fit is None:
            stuck.append(waiting.popleft())
        else:
            placed.append(waiting[fit])
            del waiting[fit]
    for context in stuck:
        _insert(placed, context, gaps=4 * window)
    return placed


def _insert(placed: list[Nodes], context: Nodes, *, gaps: int) -> None:
    """Into the first gap whose sides share nothing with the context; at the end where none of `gaps` fits."""
    members = set(context.tolist())
    fits = [members.isdisjoint(nodes.tolist()) for nodes in placed[: gaps + 1]]
    for place in range(len(fits) + 1):
        if (place == 0 or fits[place - 1]) and (place == len(placed) or (place < len(fits) and fits[place])):
            placed.insert(place, context)
            return
    placed.append(context)
