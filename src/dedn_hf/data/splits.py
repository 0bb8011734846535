"""What the splits of all data sets have in common."""

import hashlib
from collections.abc import Mapping, Sequence


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
