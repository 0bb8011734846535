import numpy as np
import pytest

from dedn_hf.training import ClassBalancedSampler

LABELS = np.repeat(np.arange(7) * 3, [5, 1, 9, 4, 4, 6, 2])  # 31 images of 7 classes, whose ids have gaps


def batches(sampler):
    return np.array(list(sampler)).reshape(-1, sampler.batch_size)


def test_batches_have_different_classes():
    sampler = ClassBalancedSampler(LABELS, 5)
    drawn = batches(sampler)
    assert drawn.shape == (6, 5) and len(sampler) == 30
    for batch in drawn:
        assert len(set(LABELS[batch])) == 5


def test_a_batch_may_have_all_classes():
    assert all(
        sorted(LABELS[batch]) == np.unique(LABELS).tolist() for batch in batches(ClassBalancedSampler(LABELS, 7))
    )


def test_every_class_and_every_image_is_equally_likely():
    sampler = ClassBalancedSampler(LABELS, 5)
    counts = np.zeros(len(LABELS))
    for epoch in range(400):
        sampler.set_epoch(epoch)
        counts += np.bincount(list(sampler), minlength=len(LABELS))
    of_class = np.array([counts[label == LABELS].sum() for label in np.unique(LABELS)])
    np.testing.assert_allclose(of_class / of_class.sum(), 1 / 7, atol=0.01)
    largest = counts[LABELS == 6]
    np.testing.assert_allclose(largest / largest.sum(), 1 / 9, atol=0.02)


def test_what_is_drawn_depends_on_seed_and_epoch_alone():
    sampler, other = ClassBalancedSampler(LABELS, 4, seed=1), ClassBalancedSampler(LABELS, 4, seed=2)
    first = list(sampler)
    assert list(sampler) == first
    assert list(other) != first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    fresh = ClassBalancedSampler(LABELS, 4, seed=1)
    fresh.set_epoch(1)
    assert list(fresh) == second
    # A seed's second epoch is not the next seed's first.
    assert second != list(other)


def test_fewer_images_than_a_batch_still_give_one():
    assert len(batches(ClassBalancedSampler([0, 1, 2], 3))) == 1


def test_more_images_than_classes_in_a_batch():
    with pytest.raises(ValueError, match="a batch has 8 images and the training images are of 7 classes"):
        ClassBalancedSampler(LABELS, 8)
