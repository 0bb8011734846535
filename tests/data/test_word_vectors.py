import hashlib

import numpy as np
import pytest

from dedn_hf.data.word_vectors import compose_word_vectors


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_attributes_share_their_words():
    red_wing, red_tail, blue_tail, long_leg = compose_word_vectors(
        ["has_wing_color::red", "has_tail_color::red", "has_tail_color::blue", "has_leg_length::long"], size=256
    )
    assert cosine(red_wing, red_tail) > 0.5
    assert cosine(red_tail, blue_tail) > 0.5
    assert cosine(red_wing, blue_tail) < cosine(red_wing, red_tail)
    assert abs(cosine(red_wing, long_leg)) < 0.3


def test_an_attribute_is_the_sum_of_its_words():
    vectors = compose_word_vectors(["has_wing_color::red", "Wing", "color", "RED"], size=20)
    assert vectors.shape == (4, 20)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[1:].sum(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, rtol=1e-6)


def test_a_word_has_the_same_vector_everywhere():
    signs = (compose_word_vectors(["red"], size=64) > 0).astype(np.uint8)
    assert np.packbits(signs).tobytes().hex() == hashlib.shake_256(b"red").hexdigest(8)
    np.testing.assert_array_equal(compose_word_vectors(["blue", "red"])[1], compose_word_vectors(["red"])[0])


def test_names_of_other_data_sets():
    vectors = compose_word_vectors(["man-made", "man made", "newskin", "has_bill_shape::curved_(up_or_down)"])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors).sum(1).min() > 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"'--'.*rename"):
        compose_word_vectors(["red", "--"])
    with pytest.raises(ValueError, match="size"):
        compose_word_vectors(["red"], size=0)
