"""Files: how they are written, and what tells their contents apart."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm.auto import tqdm


def write_json(path: str | os.PathLike, content: dict):
    """
    Writes JSON under a temporary name and moves it, so that a file is there whole or not at all. JSON knows no NaN and
    no infinity: they become `null`.
    """
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: str | os.PathLike, text: str):
    """Writes text under a temporary name and moves it, so that a file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def require_writable(path: str | os.PathLike):
    """An OSError or ValueError if a file cannot be written, before the work that ends with it; makes its folder."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def content_mark(content: bytes) -> str:
    """Size and hash of a file's content, which is all that tells whether it changed: times of files prove nothing."""
    return f"{len(content)}-{hashlib.sha256(content).hexdigest()[:32]}"


def content_marks(files: Sequence[str | os.PathLike], description: str) -> list[str | None]:
    """
    Marks of many files, which are read in parallel, see [`content_mark`].

    Args:
        files (`Sequence[str` or `os.PathLike]`):
            The files.
        description (`str`):
            What the progress bar says.

    Returns:
        `list[str | None]`: a mark for each; `None` of one that is not there or cannot be read.
    """

    def read(file: str | os.PathLike) -> str | None:
        try:
            return content_mark(Path(file).read_bytes())
        except OSError:
            return None

    with ThreadPoolExecutor() as readers:
        marks = readers.map(read, files)
        return list(tqdm(marks, total=len(files), desc=description, unit="image", disable=None))


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
