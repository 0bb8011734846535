"""What is sure of an image where its class is not: the family, the order, whatever stands above classes."""

import functools
import itertools
from collections.abc import Iterable, Mapping

from .names_dedn import NameMatcher

# Above a half, so that what is that sure is one line of ranks: no two that exclude each other can be.
SURE = 0.8


def sure_ranks(scores: Mapping[str, float], parents: Mapping[str, str]) -> list[dict] | None:
    """
    The ranks that an image is sure to be of: those of which the candidates have [`SURE`] or more together.

    Args:
        scores (`Mapping[str, float]`):
            Score of each candidate; they sum to 1.
        parents (`Mapping[str, str]`):
            Class or rank → the rank above it, without circles, see `class_parents` in [`DednConfig`].

    Returns:
        `list[dict]`: `label`, `score` and `depth`, how many ranks stand above it, from the finest on, which is a
        candidate if one is that sure by itself; empty if not even a rank at the top is. `None` if no candidate has a
        parent.
    """
    lines = _lines(tuple(scores), tuple(parents.items()))
    if all(len(line) == 1 for line in lines):
        return None
    sums, depths = {}, {}
    for score, line in zip(scores.values(), lines):
        for depth, rank in enumerate(reversed(line)):
            sums[rank] = sums.get(rank, 0.0) + score
            depths[rank] = depth
    sure = sorted((rank for rank in sums if sums[rank] >= SURE), key=depths.get, reverse=True)
    return [{"label": rank, "score": min(sums[rank], 1.0), "depth": depths[rank]} for rank in sure]


def ranks_of(names: Iterable[str], parents: Mapping[str, str]) -> dict[str, str]:
    """Those of the parents that stand above some classes; the classes as they are written here."""
    lines = _lines(tuple(names), tuple(parents.items()))
    return {name: parent for line in lines for name, parent in itertools.pairwise(line)}


@functools.lru_cache(maxsize=16)
def _lines(names: tuple[str, ...], parents: tuple[tuple[str, str], ...]) -> list[list[str]]:
    """Of each class itself and all that stands above it."""
    above = dict(parents)
    known = NameMatcher(above)
    lines = []
    for name in names:
        line, child = [name], known.find(name)
        while child in above:
            child = above[child]
            line.append(child)
        lines.append(line)
    return lines


__all__ = ["SURE", "ranks_of", "sure_ranks"]
