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


def read_parents(value) -> dict[str, str]:
    """`class_parents` of a config, checked."""
    if not isinstance(value, dict):
        raise ValueError(
            f"`class_parents` must be a dict of a class or rank → the rank above it, but it is {value!r}."
        )
    strangers = [name for pair in value.items() for name in pair if not isinstance(name, str) or not name.strip()]
    if strangers:
        raise ValueError(f"`class_parents` must hold names, which are texts, but there is {strangers[0]!r}.")
    if circle := circle_of_parents(value):
        raise ValueError(
            f"`class_parents` go in a circle: {' → '.join(map(repr, circle))}. Nothing can stand above itself: take "
            "one of them out."
        )
    return dict(value)


def circle_of_parents(parents: Mapping[str, str]) -> list[str]:
    """The first circle among parents, its first name again at its end; nothing where there is none."""
    ended = set()
    for name in parents:
        line = []
        while name in parents and name not in ended:
            if name in line:
                return [*line[line.index(name) :], name]
            line.append(name)
            name = parents[name]
        ended.update(line)
    return []


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


__all__ = ["SURE", "circle_of_parents", "ranks_of", "read_parents", "sure_ranks"]
