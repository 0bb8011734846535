"""Word vectors of attributes, where there are no trained ones."""

import hashlib
import re
from collections.abc import Sequence

import numpy as np


def compose_word_vectors(attribute_names: Sequence[str], size: int = 64) -> np.ndarray:
    """
    Word vectors of attributes, composed from the words of their names: each word has a random unit vector and an
    attribute the sum of its words' vectors, so that `has_wing_color::red` shares something with `has_tail_color::red`
    and with `has_wing_pattern::solid`.

    A word's vector has the entries ±1/√`size`, the signs being bits of the word's SHAKE-256 digest: it depends on
    nothing but the word and the size. Words are split at everything but letters and digits, in lower case; the `has`
    that starts CUB's names is left out, since it tells no attribute from another.

    Args:
        attribute_names (`Sequence[str]`):
            The A attributes.
        size (`int`, *optional*, defaults to 64):
            Size D of the vectors.

    Returns:
        `np.ndarray` of shape `(A, D)`, float32: one vector an attribute, not normalised.

    Raises:
        `ValueError`: If an attribute's name holds no word, or `size` is not positive.
    """
    if size < 1:
        raise ValueError(f"`size` is {size}: a word vector needs at least one entry.")
    vectors = np.zeros((len(attribute_names), size), dtype=np.float32)
    for row, name in zip(vectors, attribute_names, strict=True):
        words = re.findall(r"[^\W_]+", name.lower().removeprefix("has_"))
        if not words:
            raise ValueError(f"The attribute name {name!r} holds no word to compose a vector from: rename it.")
        for word in words:
            digest = np.frombuffer(hashlib.shake_256(word.encode()).digest((size + 7) // 8), dtype=np.uint8)
            bits = np.unpackbits(digest, count=size)
            row += (2.0 * bits - 1.0) / np.sqrt(size)
    return vectors
