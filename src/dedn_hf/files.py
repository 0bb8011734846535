"""Writing files."""

import json
import math
import os
from pathlib import Path


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


def _finite(content):
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
