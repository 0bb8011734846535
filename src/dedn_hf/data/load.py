"""Data sets by their name on the command line."""

from pathlib import Path

from .cub import load_cub
from .dataset import GzslDataset
from .synthetic_birds import load_synthetic_birds
from .word_vectors import compose_word_vectors

DATASETS = ("synthetic_birds", "cub")


def load_gzsl_dataset(name: str, data_dir: str | None = None, word_vectors: str | None = None) -> GzslDataset:
    """
    Loads a data set with word vectors of its attributes.

    Args:
        name (`str`):
            `"synthetic_birds"` or `"cub"`.
        data_dir (`str`, *optional*):
            Where its files are; the synthetic birds need none.
        word_vectors (`str`, *optional*):
            A `.npy` file of shape `(A, D)`, or `"random"` to compose them from random vectors of the words in the
            attributes' names. By default `<data_dir>/attribute_vectors/<name>.npy`; the synthetic birds have vectors
            of their own.

    Raises:
        ValueError: If there is no such data set, it needs a `data_dir`, or cannot use `word_vectors`.
        FileNotFoundError: If a file is missing; says which, and where to get it.
    """
    if name not in DATASETS:
        raise ValueError(f"There is no data set {name!r}; choose one of {', '.join(DATASETS)}.")
    if name == "synthetic_birds":
        if word_vectors not in (None, "random"):
            raise ValueError(
                f"The synthetic birds have word vectors of their own: leave --word_vectors {word_vectors} out."
            )
        dataset = load_synthetic_birds()
    else:
        if data_dir is None:
            raise ValueError(f"The data set {name!r} is read from files: name their folder with --data_dir.")
        dataset = load_cub(data_dir, word_vectors=None if word_vectors == "random" else word_vectors)
    if word_vectors == "random":
        dataset.word_vectors = compose_word_vectors(dataset.attribute_names)
    if dataset.word_vectors is None:
        expected = Path(data_dir) / "attribute_vectors" / f"{name}.npy"
        raise FileNotFoundError(
            f"There are no word vectors for {name}: {expected} does not exist. Name a file with --word_vectors FILE, "
            "or compose them from random ones with --word_vectors random."
        )
    return dataset
