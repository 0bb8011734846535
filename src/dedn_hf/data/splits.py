"""What the splits of all data sets have in common."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence


def fingerprint_split(image_ids: Mapping[str, Sequence]) -> str:
    """
    SHA-256 of a split, equal for equal contents in any order.

    Args:
        image_ids (`Mapping[str, Sequence]`):
            Name of each part of the split (`"trainval"`, `"test_seen"`, …) → the ids of its images.

    Returns:
        `str`: 64 hexadecimal digits, over the sorted ids of each part in the order of the parts' names.
    """
    digest = hashlib.sha256()
    for name in sorted(image_ids):
        ids = " ".join(map(str, sorted(image_ids[name])))
        digest.update(f"{name}: {ids}\n".encode())
    return digest.hexdigest()


def image_id_of(path: str) -> int:
    """
    Id of an image in a data set that has no official ids: it depends on the path of the image within the data set
    alone, so that images that come or go do not change it.

    Args:
        path (`str`):
            The path, with forward slashes.

    Returns:
        `int`: 63 bits of the path's SHA-256.
    """
    return int.from_bytes(_digest(path)[:8], "big") >> 1


def draw(names: Iterable[str], seed: int) -> list[str]:
    """
    Names in random order: that of their SHA-256 with the seed. So it is the same on every machine and in every
    version, and a name that is added or taken away leaves the order of the others as it was.

    Args:
        names (`Iterable[str]`):
            Different names.
        seed (`int`):
            Seed of the draw.
    """
    return sorted(names, key=lambda name: _digest(f"{seed} {name}"))


def _digest(text: str) -> bytes:
    # As the bytes that they are on disk: names of files need not be UTF-8.
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def fifth(count: int) -> int:
    """
    How many of `count` are held out: a fifth, rounded; at least one, unless there is only one; none of none.
    """
    return max(0, min(max(1, round(count / 5)), count - 1))
