"""
Synthetic birds: a small world with the structure of CUB-200-2011, drawn on the fly.

Every bird wears four different colours on head, breast, wing and tail, and has a double: a class that wears the same
four on other parts. The background is full of leaves, berries and branches in the same colours. So it does not help to
know which colours are in an image: they have to be found on their parts.

The pixels must be the same on every machine. Random numbers are therefore taken only through `Generator.random` and
`Generator.bytes`, which hand out the bits of PCG64 as they come (NumPy promises no stable stream for anything else),
coordinates are rounded to whole pixels before Pillow fills polygons with them, and light and noise are integers.
"""

import io
import itertools
import math
import os
import zlib
from dataclasses import dataclass

import datasets
import numpy as np
from PIL import Image, ImageDraw

from .dataset import DatasetCard, GzslDataset
from .splits import fingerprint_split
from .word_vectors import compose_word_vectors

CARD = DatasetCard(
    title="Synthetic birds",
    id="synthetic-birds",
    subject="drawn birds",
    summary="110 invented species, drawn by dedn-hf itself at 96 × 96 pixels and described by 62 attributes; the "
    "same pixels on every machine, nothing to download. 90 classes are seen and 20 are unseen; 2,700 images to "
    "train on, 900 and 800 to test seen and unseen classes. Every species has a double that wears the same colours "
    "on other parts, so that colours have to be found on their parts.",
    license={"license": "apache-2.0"},
    terms="The drawings come from dedn-hf under Apache-2.0, and so do the weights.",
    caution="The model knows drawings only. It is for demonstrations, tests and teaching: on photographs it is "
    "worthless, and its figures say nothing about real birds.",
    image="bird.png",
    new_class="Garden Lantern",
    description=("has_head_color::red", "has_wing_color::blue", "has_tail_shape::forked"),
    groups="head, torso, wing, tail, leg, whole body",
    split_name="synthetic birds v1, seed 0",
    split_sha256="477f58993c709cadb9f1b21c4c398b22398f2ba6feb3bf575c3afb41e24a9b35",
    backbone="a small ResNet that was trained from scratch together with the experts.",
    built_in=True,
)

COLORS = {
    "red": (214, 30, 38),
    "yellow": (246, 216, 40),
    "green": (40, 150, 56),
    "blue": (44, 88, 214),
    "pink": (244, 146, 190),
    "brown": (124, 76, 36),
    "black": (34, 34, 38),
    "white": (240, 240, 236),
}
PALETTE = np.array(list(COLORS.values()))
BODY_COLORS = tuple(COLORS)

# Group of the fine expert -> trait -> its values. An individual has exactly one value of each trait.
TRAITS = {
    "head": {
        "head_color": BODY_COLORS,
        "head_pattern": ("plain", "capped", "crested"),
        "bill_color": ("red", "yellow", "black", "white"),
        "bill_shape": ("cone", "dagger", "hooked"),
    },
    "torso": {"breast_color": BODY_COLORS, "breast_pattern": ("solid", "spotted", "striped")},
    "wing": {"wing_color": BODY_COLORS, "wing_pattern": ("solid", "spotted", "barred")},
    "tail": {"tail_color": BODY_COLORS, "tail_shape": ("pointed", "forked", "fan")},
    "leg": {"leg_color": ("red", "yellow", "blue", "black"), "leg_length": ("short", "long")},
    "whole body": {"size": ("small", "medium", "large"), "shape": ("round", "slender")},
}
TRAIT_VALUES = {trait: values for traits in TRAITS.values() for trait, values in traits.items()}
COLORED_PARTS = ("head_color", "breast_color", "wing_color", "tail_color")
ATTRIBUTE_NAMES = [f"has_{trait}::{value}" for trait, values in TRAIT_VALUES.items() for value in values]
ATTRIBUTE_GROUPS = {
    group: [ATTRIBUTE_NAMES.index(f"has_{trait}::{value}") for trait, values in traits.items() for value in values]
    for group, traits in TRAITS.items()
}
PART_NAMES = ["head", "bill", "breast", "wing", "tail", "leg"]

NUM_TRAIN_CLASSES, NUM_VALIDATION_CLASSES, NUM_UNSEEN_CLASSES = 70, 20, 20
NUM_CLASSES = NUM_TRAIN_CLASSES + NUM_VALIDATION_CLASSES + NUM_UNSEEN_CLASSES
# A class leaves two of its traits open: three in four individuals have its usual value and one in four another one.
NUM_VARIABLE_TRAITS, USUAL = 2, 0.75

# As with real birds, the family name goes with the bill; nothing else in a name tells of an attribute.
FAMILY_NAMES = {
    "cone": ("Finch", "Bunting", "Sparrow", "Grosbeak", "Siskin", "Weaver"),
    "dagger": ("Kingfisher", "Heron", "Woodpecker", "Jacamar", "Bittern", "Tern"),
    "hooked": ("Shrike", "Falcon", "Parakeet", "Vireo", "Kite", "Petrel"),
}
FIRST_NAMES = ("Northern", "Hidden", "Silent", "Common", "Royal", "Hermit", "Painted", "Laughing", "Island")
HABITAT_NAMES = ("Marsh", "Dune", "Forest", "Meadow", "River", "Mountain", "Garden", "Lagoon", "Heath")


def _turned(degrees: float) -> complex:
    angle = math.radians(degrees)
    return complex(round(math.cos(angle), 6), round(math.sin(angle), 6))


def _polygon(*corners: tuple[float, float]) -> np.ndarray:
    return np.array([complex(x, y) for x, y in corners])


# Shapes are complex numbers: y points downwards, multiplying turns clockwise. The unit is a pixel of a 96-pixel image.
CIRCLE = np.array([_turned(15 * step) for step in range(24)])
DOT = CIRCLE[::2]
BAR = _polygon((-1, -1), (1, -1), (1, 1), (-1, 1))
TAILS = {
    "pointed": _polygon((2, -4.5), (-12, -3.5), (-23, 0), (-12, 3.5), (2, 4.5)),
    "forked": _polygon((2, -4.5), (-22, -10), (-14, 0), (-22, 10), (2, 4.5)),
    "fan": _polygon((2, -3.5), (-16, -12.5), (-20.5, -6.5), (-22, 0), (-20.5, 6.5), (-16, 12.5), (2, 3.5)),
}
BILLS = {
    "cone": _polygon((6, -6.5), (18.5, 1), (6, 8)),
    "dagger": _polygon((7, -4.6), (25, 0.5), (7, 5.4)),
    "hooked": _polygon((7, -5), (14, -4.5), (18.5, 0), (18, 9), (13.5, 4.5), (7, 5)),
}
CREST = _polygon((4, -8), (-1, -17), (-3, -11), (-9, -15), (-8, -8), (-15, -9), (-8, 1))
BREAST_SPOTS = ((0.88, 0.05), (0.7, 0.62), (0.24, 0.74), (-0.1, 0.55), (-0.35, 0.76))
BREAST_STRIPES = (-0.42, -0.12, 0.18, 0.72)
WING_SPOTS = ((-0.7, 0.0), (-0.37, -0.55), (-0.37, 0.52), (0.06, -0.58), (0.06, 0.56))
WING_BARS = (-0.65, -0.2)
DARK, LIGHT = (22, 22, 26), (150, 150, 156)


def _generator(seed: int, image_id: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, image_id, purpose]))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _choose(rng: np.random.Generator, values):
    return values[int(rng.random() * len(values))]


def _shuffled(rng: np.random.Generator, values) -> list:
    return [values[index] for index in np.argsort(rng.random(len(values)), kind="stable")]


def create_classes(seed: int) -> tuple[list[str], np.ndarray]:
    """
    Invents the classes of a world. Classes 2n and 2n+1 are each other's doubles.

    Args:
        seed (`int`):
            Seed of the world.

    Returns:
        `tuple[list[str], np.ndarray]`: the K names, and the class-attribute matrix of shape `(K, A)`, float32, in
        [0, 1]: the share of the class's individuals that have the attribute. The train classes come first, then the
        validation classes, then the unseen ones. Any two classes differ in at least four traits, and each attribute
        is usual in at least three train classes.
    """
    rng = _generator(seed, 0, 1)
    while True:
        birds = []
        for _ in range(NUM_CLASSES // 2):
            colors = _shuffled(rng, BODY_COLORS)[: len(COLORED_PARTS)]
            shift = 1 + int(rng.random() * 3)
            for worn in (colors, colors[shift:] + colors[:shift]):
                bird = {trait: _choose(rng, values) for trait, values in TRAIT_VALUES.items()}
                birds.append(bird | dict(zip(COLORED_PARTS, worn, strict=True)))
        table = np.array([list(bird.values()) for bird in birds])
        differences = (table[:, None] != table[None]).sum(-1)
        usual = [[bird[trait] for bird in birds[:NUM_TRAIN_CLASSES]] for trait in TRAIT_VALUES]
        rarest = min(
            column.count(value)
            for column, values in zip(usual, TRAIT_VALUES.values(), strict=True)
            for value in values
        )
        if differences[np.triu_indices(NUM_CLASSES, 1)].min() >= 4 and rarest >= 3:
            break

    names = []
    class_attributes = np.zeros((NUM_CLASSES, len(ATTRIBUTE_NAMES)), dtype=np.float32)
    for row, bird in zip(class_attributes, birds, strict=True):
        variable = _shuffled(rng, list(TRAIT_VALUES))[:NUM_VARIABLE_TRAITS]
        for trait, values in TRAIT_VALUES.items():
            usual_value = bird[trait]
            row[ATTRIBUTE_NAMES.index(f"has_{trait}::{usual_value}")] = USUAL if trait in variable else 1.0
            if trait in variable:
                other = _choose(rng, [value for value in values if value != usual_value])
                row[ATTRIBUTE_NAMES.index(f"has_{trait}::{other}")] = 1.0 - USUAL
        while (
            name := f"{_choose(rng, FIRST_NAMES)} {_choose(rng, HABITAT_NAMES)} "
            f"{_choose(rng, FAMILY_NAMES[bird['bill_shape']])}"
        ) in names:
            pass
        names.append(name)
    return names, class_attributes


def _choose_traits(class_row: np.ndarray, rng: np.random.Generator) -> dict[str, str]:
    """An individual of a class: one value of each trait, drawn with the class's shares."""
    traits, shares = {}, iter(class_row.tolist())
    for trait, values in TRAIT_VALUES.items():
        reach, chance = 0.0, rng.random()
        for value, share in [(value, next(shares)) for value in values]:
            if reach <= chance < reach + share:
                traits[trait] = value
            reach += share
    return traits


def _contrast(color: str) -> tuple[int, int, int]:
    return COLORS["black" if color in ("white", "yellow", "pink") else "white"]


def _bird_shapes(traits: dict[str, str], rng: np.random.Generator):
    """
    A bird that faces right: its `(polygon, colour, outline)` from back to front, and the points of `PART_NAMES`.
    """
    color = {part: COLORS[traits[f"{part}_color"]] for part in PART_NAMES}
    shapes = []

    def add(polygon, part):
        # The rim of a black part is light, or it would be lost before something black.
        shapes.append((polygon, color[part], LIGHT if traits[f"{part}_color"] == "black" else DARK))

    def add_mark(polygon, fill):
        shapes.append((polygon, fill, None))

    tilt = _turned(_between(rng, -22, 10))
    a, b = (19.0, 15.0) if traits["shape"] == "round" else (23.0, 10.0)

    # Legs: they hang down from the tilted body, and are relatively thicker in small birds, to be seen.
    length = b * 0.2 + (8.0 if traits["leg_length"] == "short" else 18.0)
    wide = {"small": 3.0, "medium": 2.5, "large": 2.2}[traits["size"]]
    for x in (-4.0, 6.0):
        swing = _turned(_between(rng, -14, 14))
        foot = _polygon((-wide, 0), (wide, 0), (wide, length), (7, length + 1), (7, length + 4), (-wide, length + 4))
        hip = complex(x, b * 0.8) * tilt
        add(hip + foot * swing, "leg")
    leg = hip + complex(0, length - 3) * swing

    # Tail: it wags.
    root = complex(2 - a, -1) * tilt
    wag = _turned(_between(rng, -18, 22)) * tilt
    add(root + TAILS[traits["tail_shape"]] * wag, "tail")
    tail = root - 9.5 * wag

    # Breast: the torso, with its pattern in front and below, where the wing leaves it free.
    add((CIRCLE.real * a + 1j * CIRCLE.imag * b) * tilt, "breast")
    if traits["breast_pattern"] == "spotted":
        for u, v in BREAST_SPOTS:
            add_mark((complex(u * a, v * b) + DOT * 2.2) * tilt, _contrast(traits["breast_color"]))
    elif traits["breast_pattern"] == "striped":
        for u in BREAST_STRIPES:
            low, high = (u - 0.055) * a, (u + 0.055) * a
            bottom = b * 0.96 * math.sqrt(1 - u * u)
            stripe = _polygon((low, 0), (high, 0), (high, bottom), (low, bottom))
            add_mark(stripe * tilt, _contrast(traits["breast_color"]))
    breast = complex(0.5 * a, 0.36 * b) * tilt

    # Wing: a drop hinged at the shoulder, folded or raised.
    shoulder = complex(0.28 * a, -0.3 * b) * tilt
    lift = _turned(_between(rng, -6, 50)) * tilt

    def on_wing(u, v):
        return shoulder + complex(15 * u - 12, (0.5 * b + 2.5) * v * (0.62 + 0.38 * u)) * lift

    add(np.array([on_wing(point.real, point.imag) for point in CIRCLE]), "wing")
    if traits["wing_pattern"] == "spotted":
        for u, v in WING_SPOTS:
            add_mark(on_wing(u, v) + DOT * 2.0, _contrast(traits["wing_color"]))
    elif traits["wing_pattern"] == "barred":
        for u in WING_BARS:
            v, end = 0.95 * math.sqrt(1 - u * u), u + 0.2
            bar = np.array([on_wing(u, -v), on_wing(end, -v), on_wing(end, v), on_wing(u, v)])
            add_mark(bar, _contrast(traits["wing_color"]))
    wing = on_wing(0.5, 0)

    # Head: it nods.
    center = complex(0.86 * a, -0.86 * b - (0.5 if traits["shape"] == "round" else 3.0)) * tilt
    nod = _turned(_between(rng, -16, 16)) * tilt
    add(center + BILLS[traits["bill_shape"]] * nod, "bill")
    if traits["head_pattern"] == "crested":
        add(center + CREST * nod, "head")
    add(center + CIRCLE * 9.5 * nod, "head")
    if traits["head_pattern"] == "capped":
        add_mark(center + (CIRCLE[12:] * 9.5 - 2j) * nod, _contrast(traits["head_color"]))
    add_mark(center + (complex(3.5, -0.8) + DOT * 2.4) * nod, COLORS["white"])
    add_mark(center + (complex(3.9, -0.8) + DOT * 1.5) * nod, DARK)
    head, bill = center + complex(-2, 4.5) * nod, center + complex(12, 0.7) * nod

    return shapes, np.array([head, bill, breast, wing, tail, leg])


def _draw_background(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    """Pale hills, and branches, leaves and berries in the colours of the birds."""
    hills, branches, leaves = 4, 2 + int(rng.random() * 3), 18 + int(rng.random() * 8)
    x, y, turn, size, slim, strength, color, rim = rng.random((8, hills + branches + leaves))
    center, turn = (x + 1j * y) * side, np.round(np.exp(2j * np.pi * turn), 6)
    unit = side / 96

    colors = PALETTE[(color * len(PALETTE)).astype(int)] * (0.85 + 0.25 * strength[:, None])
    colors[:hills] = 0.6 * colors[:hills] + 0.4 * 210
    colors = [tuple(channels) for channels in np.minimum(colors, 255).astype(int).tolist()]

    circles = CIRCLE * ((20 + 25 * size) * unit)[:, None]
    bars = (BAR.real * side + 1j * BAR.imag * ((1.2 + 2 * size) * unit)[:, None]) * turn[:, None]
    ellipses = (DOT.real + 1j * DOT.imag * (0.25 + 0.75 * slim)[:, None]) * (turn * (4 + 11 * size) * unit)[:, None]

    draw.rectangle((0, 0, side, side), fill=colors[0])
    for k in range(1, hills + branches + leaves):
        shape = circles[k] if k < hills else bars[k] if k < hills + branches else ellipses[k]
        _fill(draw, center[k] + shape, colors[k], DARK if k >= hills + branches and rim[k] < 0.5 else None)


def _fill(draw: ImageDraw.ImageDraw, polygon: np.ndarray, color, outline=None) -> None:
    corners = np.rint(polygon.view(np.float64)).astype(int)
    draw.polygon(corners.tolist(), fill=color, outline=outline)


def draw_bird(
    traits: dict[str, str], rng: np.random.Generator, image_size: int
) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """
    Draws one bird in a random pose and light before a random background.

    Args:
        traits (`dict[str, str]`):
            One value of each of `TRAIT_VALUES`.
        rng (`np.random.Generator`):
            Source of pose, place, background, light and noise.
        image_size (`int`):
            Side of the image in pixels.

    Returns:
        `tuple[Image.Image, np.ndarray, np.ndarray]`: the RGB image; the points of `PART_NAMES`, of shape `(6, 2)`,
        x and y in pixels; and the bird's box `[x, y, width, height]` in pixels.
    """
    side = 2 * image_size  # drawn at twice the size and averaged, against jagged edges
    shapes, points = _bird_shapes(traits, rng)
    scale = {"small": 0.59, "medium": 0.77, "large": 0.97}[traits["size"]] * _between(rng, 0.97, 1.03) * side / 96
    flip = rng.random() < 0.5

    def place(polygon):
        return (-polygon.conjugate() if flip else polygon) * scale

    polygons = [place(polygon) for polygon, _, _ in shapes]
    everything = np.concatenate(polygons)
    low = complex(everything.real.min(), everything.imag.min())
    extent = complex(everything.real.max(), everything.imag.max()) - low
    corner = complex(
        2 + rng.random() * (side - 5 - extent.real),
        2 + rng.random() * (side - 5 - extent.imag),
    )

    canvas = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(canvas)
    _draw_background(draw, side, rng)
    for polygon, (_, color, outline) in zip(polygons, shapes, strict=True):
        _fill(draw, polygon - low + corner, color, outline)
    pixels = np.asarray(canvas.reduce(2), dtype=np.int32)

    # Light, in 1/256: a slope over the image and a slight colour cast. Noise: two dice of four bits.
    ramp = np.arange(image_size, dtype=np.int32) - image_size // 2
    down, right = (int(_between(rng, -34, 34)) * ramp // image_size for _ in range(2))
    brightness = _between(rng, 224, 272)
    cast = np.array([int(brightness + _between(rng, -14, 14)) for _ in range(3)], dtype=np.int32)
    dice = np.frombuffer(rng.bytes(pixels.size), dtype=np.uint8).reshape(pixels.shape)
    pixels = (pixels * ((down[:, None] + right)[..., None] + cast) >> 8) + ((dice & 15) + (dice >> 4)) - 15

    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    points = (place(points) - low + corner) / 2
    box = np.array([corner.real, corner.imag, extent.real, extent.imag]) / 2
    return image, np.stack([points.real, points.imag], axis=1), box


@dataclass
class SyntheticBirdsConfig(datasets.BuilderConfig):
    """
    Args:
        seed (`int`, *optional*, defaults to 0):
            Seed of the world: its classes and its images.
        images_per_class (`int`, *optional*, defaults to 40):
            Images of each class.
        image_size (`int`, *optional*, defaults to 96):
            Side of the images in pixels.
    """

    seed: int = 0
    images_per_class: int = 40
    image_size: int = 96


class SyntheticBirds(datasets.GeneratorBasedBuilder):
    """Builder of the images. To be instantiated directly: `SyntheticBirds(seed=0).download_and_prepare()`."""

    VERSION = datasets.Version("1.0.0")  # to be raised with every change of a pixel: it names the cache
    BUILDER_CONFIG_CLASS = SyntheticBirdsConfig

    def _info(self):
        class_names, _ = create_classes(self.config.seed)
        return datasets.DatasetInfo(
            description="Synthetic birds: a small world with the structure of CUB-200-2011.",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.ClassLabel(names=class_names),
                    "image_id": datasets.Value("int64"),
                    "part_points": datasets.List(datasets.List(datasets.Value("float32"), length=3)),
                    "box": datasets.List(datasets.Value("float32"), length=4),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        # The images of a class are drawn independently of each other, so that any of them may be held out.
        count = self.config.images_per_class
        trainval = count - count // 4
        train = trainval - trainval // 5
        train_classes = range(NUM_TRAIN_CLASSES)
        validation_classes = range(NUM_TRAIN_CLASSES, NUM_TRAIN_CLASSES + NUM_VALIDATION_CLASSES)
        seen_classes = range(NUM_TRAIN_CLASSES + NUM_VALIDATION_CLASSES)
        unseen_classes = range(NUM_TRAIN_CLASSES + NUM_VALIDATION_CLASSES, NUM_CLASSES)
        contents = {
            "train": (train_classes, range(train)),
            "validation_seen": (train_classes, range(train, trainval)),
            "validation_unseen": (validation_classes, range(trainval)),
            "test_seen": (seen_classes, range(trainval, count)),
            "test_unseen": (unseen_classes, range(count)),
        }
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"labels": labels, "numbers": numbers})
            for name, (labels, numbers) in contents.items()
        ]

    def _generate_examples(self, labels, numbers):
        _, class_attributes = create_classes(self.config.seed)
        for label, number in itertools.product(labels, numbers):
            image_id = label * self.config.images_per_class + number
            rng = _generator(self.config.seed, image_id, 0)
            traits = _choose_traits(class_attributes[label], rng)
            image, points, box = draw_bird(traits, rng, self.config.image_size)
            buffer = io.BytesIO()
            image.save(buffer, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
            yield (
                image_id,
                {
                    "image": {"bytes": buffer.getvalue(), "path": None},
                    "label": label,
                    "image_id": image_id,
                    "part_points": [[x, y, 1.0] for x, y in points],
                    "box": box,
                },
            )


def load(
    data_dir: None = None,
    check_files: bool = True,
    cache_dir: str | os.PathLike | None = None,
    seed: int = 0,
    images_per_class: int = 40,
    image_size: int = 96,
) -> GzslDataset:
    """
    The built-in data set: 110 invented bird species, 62 attributes, no download.

    70 train and 20 validation classes are seen, 20 unseen. Of each seen class a quarter of the images is `test_seen`;
    of the rest of each train class a fifth is `validation_seen`. All six parts are visible in every image.

    Args:
        data_dir, check_files:
            Of no effect: there are no files.
        cache_dir (`str` or `os.PathLike`, *optional*):
            Where `datasets` keeps the drawn images; its own cache by default.
        seed (`int`, *optional*, defaults to 0):
            Seed of the world: classes and images. The same seed gives the same pixels on every machine.
        images_per_class (`int`, *optional*, defaults to 40):
            Images of each class, at least 6.
        image_size (`int`, *optional*, defaults to 96):
            Side of the images in pixels, at least 64: in smaller ones not every attribute can be seen.

    Returns:
        [`GzslDataset`]: with part points (`head`, `bill`, `breast`, `wing`, `tail`, `leg`), boxes and word vectors.

    Raises:
        `ValueError`: If `seed` is negative, or there are too few images or too small ones.
    """
    if seed < 0:
        raise ValueError(f"`seed` is {seed}: the seed of a world is a non-negative integer.")
    if images_per_class < 6:
        raise ValueError(f"`images_per_class` is {images_per_class}: with fewer than 6, some split has no image.")
    if image_size < 64:
        raise ValueError(f"`image_size` is {image_size}: below 64 pixels not every attribute can be seen.")

    builder = SyntheticBirds(seed=seed, images_per_class=images_per_class, image_size=image_size, cache_dir=cache_dir)
    builder.download_and_prepare()
    parts = builder.as_dataset()
    trainval = datasets.concatenate_datasets(
        [parts[name] for name in ("train", "validation_seen", "validation_unseen")]
    )
    splits = datasets.DatasetDict(trainval=trainval, **parts)
    class_names, class_attributes = create_classes(seed)
    return GzslDataset(
        name="synthetic_birds",
        splits=splits,
        class_names=class_names,
        attribute_names=ATTRIBUTE_NAMES,
        attribute_groups=ATTRIBUTE_GROUPS,
        class_attributes=class_attributes,
        seen_class_ids=list(range(NUM_TRAIN_CLASSES + NUM_VALIDATION_CLASSES)),
        validation_class_ids=list(range(NUM_TRAIN_CLASSES, NUM_TRAIN_CLASSES + NUM_VALIDATION_CLASSES)),
        split_name=f"synthetic birds v{SyntheticBirds.VERSION.major}, seed {seed}",
        split_sha256=fingerprint_split({name: split["image_id"] for name, split in splits.items()}),
        word_vectors=compose_word_vectors(ATTRIBUTE_NAMES),
        part_names=PART_NAMES,
        attribute_parts={part: (part,) for part in PART_NAMES},
    )
