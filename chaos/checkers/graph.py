"""Cycles in graphs whose edges have kinds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

Edges = Mapping[int, Mapping[int, frozenset[str]]]
"""From a node to its successors, each with the kinds of the edges that lead there."""


def components(nodes: Iterable[int], successors: Callable[[int], Iterable[int]]) -> list[list[int]]:
    """Strongly connected components of more than one node (Tarjan's algorithm, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    for root in nodes:
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, iter(successors(root)))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1:
                        found.append(sorted(component))
            elif following not in index:
                index[following] = low[following] = len(index)
                stack.append(following)
                on_stack.add(following)
                work.append((following, iter(successors(following))))
            elif following in on_stack:
                low[node] = min(low[node], index[following])
    return found


def shortest_path(edges: Edges, source: int, target: int, kinds: frozenset[str], inside: frozenset[int] | None = None) -> list[int] | None:
    """The fewest steps from source to target over edges of these kinds, staying inside; None: there is no way."""
    came: dict[int, int] = {source: source}
    queue = deque([source])
    while queue:
        node = queue.popleft()
        for following, labels in edges.get(node, {}).items():
            if following in came or not labels & kinds or (inside is not None and following not in inside):
                continue
            came[following] = node
            if following == target:
                path = [target]
                while path[-1] != source:
                    path.append(came[path[-1]])
                return path[::-1]
            queue.append(following)
    return None


def shortest_cycle(edges: Edges, nodes: Iterable[int], kinds: frozenset[str], first: frozenset[str] | None = None) -> list[int] | None:
    """The shortest cycle over edges of these kinds, as its nodes; with `first`: its first edge, and only that one, is of those kinds."""
    inside = frozenset(nodes)
    best: list[int] | None = None
    for node in sorted(inside):
        for following, labels in sorted(edges.get(node, {}).items()):
            if following not in inside or not labels & (kinds if first is None else first):
                continue
            path = [node] if following == node else shortest_path(edges, following, node, kinds, inside)
            if path is not None and (best is None or len(path) < len(best)):
                best = [node, *path[:-1]] if path[0] != node else [node]
                if len(best) == 2:
                    return best
    return best
