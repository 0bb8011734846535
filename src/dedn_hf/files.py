"""Writing files."""

import json
import os
from pathlib import Path


def write_json(path: str | os.PathLike, content: dict):
    """Writes JSON under a temporary name and moves it, so that a file is there whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
