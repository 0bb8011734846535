"""What training sees of an image."""

import math

import numpy as np
from PIL import Image, ImageOps


class RandomCrop:
    """
    A part of an image, resized to a square and flipped or not, as training wants it: another one in each epoch, and
    the same for the same seed, epoch and image, whoever asks for it and after whatever.

    The part is `scale` of the image's area at least, and from 3:4 to 4:3 in shape, for which a thin image loses more.

    Args:
        scale (`float`):
            Smallest share of the image's area.
        seed (`int`, *optional*, defaults to 0):
            Seed of the random numbers.
    """

    def __init__(self, scale: float, seed: int = 0):
        self.scale, self.seed = scale, seed

    def __call__(self, image: Image.Image, size: int, resample: int, epoch: int, image_id: int) -> Image.Image:
        """
        Args:
            image (`PIL.Image.Image`):
                The image.
            size (`int`):
                Side of the square in pixels.
            resample (`int`):
                How Pillow interpolates, such as 2 for bilinear.
            epoch (`int`):
                Epoch, from 0.
            image_id (`int`):
                Id of the image, 0 or more.

        Returns:
            `PIL.Image.Image`.
        """
        random = np.random.default_rng((self.seed, epoch, image_id))
        width, height = image.size
        area = width * height * random.uniform(self.scale, 1)
        # As wide as high, or wider, in equal measure; the other side follows.
        shape = math.exp(random.uniform(-1, 1) * math.log(4 / 3))
        # What would be beyond an edge is kept within, and the other side makes up for it as far as it can.
        crop_width = min(math.sqrt(area * shape), width)
        crop_height = min(area / crop_width, crop_width * 4 / 3, height)
        crop_width = min(area / crop_height, crop_height * 4 / 3, width)
        left, top = random.uniform(0, width - crop_width), random.uniform(0, height - crop_height)
        # Pillow refuses an edge that rounding has put beyond the image's.
        box = (left, top, min(left + crop_width, width), min(top + crop_height, height))
        image = image.resize((size, size), resample, box=box)
        return ImageOps.mirror(image) if random.random() < 0.5 else image
