"""Scores of several rows and seeds, for tables. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean

Scores = Mapping[str, Mapping[int, float]]
"""A score by the name of the row and the seed."""


def by_row(values: Iterable[tuple[str, int, float]]) -> Scores:
    """The values of (row, seed, score) triples by row and seed, rows in the order of their first triple."""
    scores: dict[str, dict[int, float]] = {}
    for name, seed, value in values:
        scores.setdefault(name, {})[seed] = value
    return scores


def difference(scores: Scores, name: str, other: str) -> tuple[str, str]:
    """Mean over the seeds that both rows have, in points, and the name of the other row; blank without such seeds."""
    common = sorted(set(scores[name]) & set(scores.get(other, {})))
    if name == other or not common:
        return "", ""
    return f"{100 * mean(scores[name][seed] - scores[other][seed] for seed in common):+.1f}", f"`{other}`"
