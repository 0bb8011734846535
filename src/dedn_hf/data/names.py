"""Names as people write them, and paths that can be written."""

import os
import re

from ..names_dedn import NameMatcher, loosen, normalize


def printable(path: str | os.PathLike) -> str:
    """A path, or text with paths, that can be written as UTF-8; bytes that are not become `\\xe9` and the like."""
    # Python has a byte that is not UTF-8 as one of these.
    text = re.sub("[\udc80-\udcff]", lambda odd: f"\\x{ord(odd[0]) - 0xDC00:02x}", os.fspath(path))
    return text.encode(errors="backslashreplace").decode()


__all__ = ["NameMatcher", "loosen", "normalize", "printable"]
