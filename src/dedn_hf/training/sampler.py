"""Which training images go into a batch."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class ClassBalancedSampler(Sampler[int]):
    """
    Class-balanced batches, as released: each batch has `batch_size` different classes, drawn at random, and one random
    image of each.

    It emits one stream of indices, in global batches one after the other. Ranks and gradient accumulation take
    consecutive pieces of it, so that together they see the same batch as a single process would. What is drawn depends
    on the seed and the epoch alone, so that a resumed run goes on as an uninterrupted one.

    Args:
        labels (`Sequence[int]` of length `N`):
            Label of each image of the data set.
        batch_size (`int`):
            Images in a global batch: per device × devices × accumulation steps.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random numbers.

    Raises:
        ValueError: If there are fewer classes than images in a batch.
    """

    def __init__(self, labels: Sequence[int], batch_size: int, seed: int = 0):
        labels = np.asarray(labels)
        self.indices_of_class = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        if batch_size > len(self.indices_of_class):
            raise ValueError(
                f"A class-balanced batch has one image each of different classes, but a batch has {batch_size} images "
                f"and the training images are of {len(self.indices_of_class)} classes. Make the batch (per device × "
                "devices × accumulation steps) no larger than that, or set `balanced_batches=False`."
            )
        self.batch_size = batch_size
        self.num_batches = max(1, len(labels) // batch_size)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int):
        """Makes the next pass that of this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        for _ in range(self.num_batches):
            for place in random.choice(len(self.indices_of_class), self.batch_size, replace=False):
                yield int(random.choice(self.indices_of_class[place]))
