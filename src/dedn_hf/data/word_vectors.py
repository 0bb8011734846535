"""Word vectors of attributes: from a file, from a language model, or composed where there is neither."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..files import hash_file

logger = logging.getLogger(__name__)

# Ending → Python that reads one, for the advice to convert it.
_PICKLES = {".pkl": 'pickle.load(open({file}, "rb"))', ".pt": "torch.load({file}, weights_only=True)"}
_PICKLES |= {".pickle": _PICKLES[".pkl"], ".p": _PICKLES[".pkl"], ".pth": _PICKLES[".pt"]}
_OTHER_ENDINGS = (".npy", ".npz", ".safetensors", ".txt", ".vec", ".bin", ".csv", ".gz")


def load_word_vectors(
    source: str | os.PathLike, attribute_names: Sequence[str], descriptions: Mapping[str, str] | None = None
) -> np.ndarray:
    """
    Word vectors of attributes, of any width.

    Args:
        source (`str` or `os.PathLike`):
            One of
            - a `.npy` file, or a `.safetensors` file with a single tensor: one vector an attribute, in their order;
            - a text file of word vectors as of GloVe or word2vec, a word and its numbers a line: a vector is the sum
              of those of the words in the attribute's name, and words that the file lacks are left out with a warning;
            - the folder or Hub id of a sentence-embedding model in transformers format: a vector is the mean of its
              last hidden state over the tokens of the description, or else of the words in the name. They are kept
              in the cache of `huggingface_hub`, since other threads give other last digits, and a run that is resumed
              must find what it began with;
            - `"random"`: see [`compose_word_vectors`].
        attribute_names (`Sequence[str]`):
            The A attributes.
        descriptions (`Mapping[str, str]`, *optional*):
            Attribute name → what a language model is to read for it.

    Returns:
        `np.ndarray` of shape `(A, D)`, float32: one vector an attribute, not normalised.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If the file is a pickle, or otherwise not one of these, or does not fit the attributes.
    """
    if source == "random":
        return compose_word_vectors(attribute_names)
    path = Path(source)
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) and path.suffix not in (*_PICKLES, *_OTHER_ENDINGS)
    if path.is_file():
        vectors = _read_file(path, attribute_names)
    elif path.is_dir() or is_hub_id:
        vectors = _embed(str(source), attribute_names, descriptions or {})
    else:
        raise FileNotFoundError(
            f"There are no word vectors in {source}: it does not exist. Name a file, a sentence-embedding model, or "
            "`random`."
        )
    if vectors.ndim != 2 or len(vectors) != len(attribute_names) or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{source} must hold one vector of numbers for each of the {len(attribute_names)} attributes, in their "
            f"order, but has {vectors.dtype} of shape {vectors.shape}. Name another source of word vectors."
        )
    vectors = vectors.astype(np.float32)
    bad = [name for name, row in zip(attribute_names, vectors, strict=True) if not np.isfinite(row).all()]
    if bad or not vectors.any():
        raise ValueError(
            f"{source} must hold finite vectors that are not all zero, but "
            + (f"{', '.join(bad[:3])} {'have' if bad[1:] else 'has'} NaN or infinity." if bad else "all are zero.")
            + " Name another source of word vectors."
        )
    return vectors


def split_words(attribute_name: str) -> list[str]:
    """
    The words of an attribute's name in lower case, split at everything but letters and digits, without the `has` that
    starts CUB's names, since it tells no attribute from another.
    """
    return re.findall(r"[^\W_]+", attribute_name.lower().removeprefix("has_"))


def compose_word_vectors(attribute_names: Sequence[str], size: int = 64) -> np.ndarray:
    """
    Word vectors of attributes, composed from the words of their names: each word has a random unit vector and an
    attribute the sum of its words' vectors, so that `has_wing_color::red` shares something with `has_tail_color::red`
    and with `has_wing_pattern::solid`.

    A word's vector has the entries ±1/√`size`, the signs being bits of the word's SHAKE-256 digest: it depends on
    nothing but the word and the size. Words are those of [`split_words`].

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
        words = split_words(name)
        if not words:
            raise ValueError(f"The attribute name {name!r} holds no word to compose a vector from: rename it.")
        for word in words:
            digest = np.frombuffer(hashlib.shake_256(word.encode()).digest((size + 7) // 8), dtype=np.uint8)
            bits = np.unpackbits(digest, count=size)
            row += (2.0 * bits - 1.0) / np.sqrt(size)
    return vectors


def _read_file(path: Path, attribute_names: Sequence[str]) -> np.ndarray:
    with open(path, "rb") as file:
        start = file.read(8)
    # Pickles of protocol 2 and later start with 0x80; torch.save makes archives of them.
    if path.suffix.lower() in _PICKLES or start[:1] == b"\x80" or start[:2] == b"PK":
        _refuse_pickle(path)
    if start[:6] == b"\x93NUMPY":
        try:
            return np.load(path, allow_pickle=False)
        except Exception as error:  # NumPy raises whatever a damaged byte leads to
            if "allow_pickle" in str(error):
                _refuse_pickle(path, "numpy.load({file}, allow_pickle=True).tolist()")
            raise ValueError(f"{path} cannot be read: {error}. Name another file.") from error
    if path.suffix.lower() == ".safetensors":
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no safetensors file: {error}. Name another file.") from error
        if len(tensors) != 1:
            raise ValueError(
                f"{path} must hold a single tensor, one vector an attribute, but holds {len(tensors)}: "
                f"{', '.join(list(tensors)[:3])}{', …' if len(tensors) > 3 else ''}. Save the right one alone."
            )
        (tensor,) = tensors.values()
        # NumPy knows no bfloat16.
        return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
    return _read_text(path, attribute_names)


def _refuse_pickle(path: Path, load: str | None = None):
    load = (load or _PICKLES.get(path.suffix.lower(), _PICKLES[".pkl"])).format(file=json.dumps(str(path)))
    new_file = json.dumps(str(path.with_suffix(".converted.npy")))
    modules = ", ".join(sorted({"numpy", load.split(".")[0]}))
    code = f"import {modules}; numpy.save({new_file}, numpy.asarray({load}, dtype=numpy.float32))"
    raise ValueError(
        f"{path} is a pickle, which is not read because reading it can run any program. If you trust where it is "
        f"from, convert it once, and name the new file:\n    python -c {shlex.quote(code)}"
    )


def _read_text(path: Path, attribute_names: Sequence[str]) -> np.ndarray:
    words_of = [split_words(name) for name in attribute_names]
    needed = {word for words in words_of for word in words}
    exact, other_case, size = {}, {}, None
    with (
        open(path, "rb") as file,
        tqdm(total=path.stat().st_size, desc="Reading word vectors", unit="B", unit_scale=True, disable=None) as bar,
    ):
        for number, line in enumerate(file, start=1):
            bar.update(len(line))
            if number == 1 and re.fullmatch(rb"\d+ \d+\s*", line):
                continue  # word2vec: how many words, and their size
            values = line.split()
            if size is None:
                size = len(values) - 1
                if size < 2 or _floats(values[1:]) is None:
                    raise ValueError(
                        f"{path} is no file of word vectors: its first word is not followed by numbers. Text files "
                        "have a word and its numbers on each line, as GloVe's and word2vec's; word2vec's binary files "
                        "become text with gensim's `KeyedVectors.load_word2vec_format(FILE, binary=True)"
                        ".save_word2vec_format(NEW_FILE)`."
                    )
            if not values or len(values) > size + 1:
                continue  # GloVe has some words with spaces in them
            word = values[0].decode("utf-8", errors="replace")
            if word.lower() not in needed:
                continue
            vector = _floats(values[1:])
            if vector is None or len(vector) != size:
                raise ValueError(
                    f"{path}, line {number}: {word!r} must be followed by {size} numbers, as the first word is. The "
                    "file is damaged or was cut off."
                )
            # The first is the most frequent: apple before Apple, and Apple before APPLE.
            (exact if word in needed else other_case).setdefault(word.lower(), vector)
    vectors = other_case | exact
    unknown = sorted(needed - vectors.keys())
    if len(unknown) == len(needed):
        raise ValueError(
            f"{path} has none of the {len(needed)} words in the attributes' names, such as {', '.join(unknown[:3])}. "
            "Name another source of word vectors."
        )
    if unknown:
        empty = [
            name for name, words in zip(attribute_names, words_of, strict=True) if not vectors.keys() & set(words)
        ]
        logger.warning(
            f"{path} lacks {len(unknown)} of the {len(needed)} words in the attributes' names: {', '.join(unknown)}."
            + (f" No word is left of {', '.join(empty)}: their vectors are zero." if empty else "")
        )
    zero = np.zeros(size)
    return np.array([sum((vectors.get(word, zero) for word in words), zero) for words in words_of], np.float32)


def _floats(values: list[bytes]) -> np.ndarray | None:
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        return None


def _embed(name_or_path: str, attribute_names: Sequence[str], descriptions: Mapping[str, str]) -> np.ndarray:
    texts = [descriptions.get(name) or " ".join(split_words(name)) for name in attribute_names]
    try:
        digest = hashlib.sha256(json.dumps([_model_version(name_or_path), texts]).encode()).hexdigest()
        known = _read_known(digest)
        if known is not None:
            return known
        tokenizer = AutoTokenizer.from_pretrained(name_or_path)
        model = AutoModel.from_pretrained(name_or_path).eval()
    except Exception as error:  # a damaged file leads to whatever
        raise ValueError(
            f"{name_or_path} is no sentence-embedding model that transformers can load: {error}"
        ) from error
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    batches = []
    for first in tqdm(range(0, len(texts), 32), desc="Embedding attributes", unit="batch", disable=None):
        try:
            batch = tokenizer(texts[first : first + 32], padding=True, truncation=True, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state.float()
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{name_or_path} is no sentence-embedding model: it does not give hidden states for padded text alone "
                f"({error}). Name another one."
            ) from error
        mask = batch["attention_mask"].unsqueeze(-1)
        batches.append((hidden * mask).sum(dim=1) / mask.sum(dim=1))
    vectors = torch.cat(batches).numpy()
    _write_known(digest, vectors)
    return vectors


def _model_version(name_or_path: str) -> list:
    """What changes with whatever an embedding depends on: the commit of the Hub, or the files of a folder."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return [name_or_path, getattr(AutoConfig.from_pretrained(name_or_path), "_commit_hash", None)]
    return [[path.name, hash_file(path)] for path in sorted(folder.iterdir()) if path.is_file()]


def _known_file(digest: str) -> Path:
    return cached_assets_path("dedn-hf", namespace="word_vectors", subfolder="embedded") / f"{digest}.safetensors"


def _read_known(digest: str) -> np.ndarray | None:
    try:
        return load_file(_known_file(digest))["word_vectors"].numpy()
    except Exception:  # one that is not there, is damaged or cannot be read costs time only
        return None


def _write_known(digest: str, vectors: np.ndarray):
    with contextlib.suppress(OSError, SafetensorError):  # as on a disk that is full or not to be written to
        file = _known_file(digest)
        temporary = file.with_suffix(f".{os.getpid()}")
        try:
            save_file({"word_vectors": torch.from_numpy(vectors)}, temporary)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
