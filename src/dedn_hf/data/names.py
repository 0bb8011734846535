"""Names as people write them: found in a list also where case, spaces or invisible characters differ."""

import difflib
import os
import re
import unicodedata
from collections.abc import Iterable

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´", "'"))


def normalize(text: str) -> str:
    """Text without space around it, in Unicode's normal form C: some systems store `é` as two characters."""
    return unicodedata.normalize("NFC", text).strip()


def printable(path: str | os.PathLike) -> str:
    """A path, or text with paths, that can be written as UTF-8; bytes that are not become `\\xe9` and the like."""
    # Python has a byte that is not UTF-8 as one of these.
    text = re.sub("[\udc80-\udcff]", lambda odd: f"\\x{ord(odd[0]) - 0xDC00:02x}", os.fspath(path))
    return text.encode(errors="backslashreplace").decode()


def loosen(name: str) -> str:
    """
    What is left of a name without what people write in different ways: case, which apostrophe, spaces, underscores and
    hyphens, how many of them, invisible characters, and forms of characters that look alike.

    Args:
        name (`str`):
            The name.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(_APOSTROPHES)
    kinds = [(character, unicodedata.category(character)) for character in text]
    visible = "".join(" " if kind == "Pd" else character for character, kind in kinds if kind != "Cf")
    return re.sub(r"[\s_]+", " ", visible).strip()


class NameMatcher:
    """
    Finds names in a list: as they are or, where only one of the list differs in nothing but what [`loosen`] takes
    away, as that.

    Args:
        names (`Iterable[str]`):
            The list.
    """

    def __init__(self, names: Iterable[str]):
        self.names = {normalize(name): name for name in names}
        self._loose, self._found = {}, {}
        for name in self.names.values():
            self._loose.setdefault(loosen(name), []).append(name)

    def __len__(self) -> int:
        return len(self.names)

    def find_all(self, names: Iterable[str]) -> list[str]:
        """Names as the list has them; those that it lacks, or has for another of them already, as they are."""
        names = list(names)
        found = [self.find(name) for name in names]
        return [name if other is None or found.count(other) > 1 else other for name, other in zip(names, found)]

    def find(self, name: str) -> str | None:
        """The name as the list has it, if it has it."""
        exact = self.names.get(normalize(name))
        if exact is not None:
            return exact
        loose = loosen(name)
        candidates = self._loose.get(loose, []) if loose else []
        if len(candidates) != 1:
            return None
        self._found[name] = candidates[0]
        return candidates[0]

    def closest(self, name: str) -> str:
        """What is to be added to the complaint that a name is not in the list: which of the list may be meant."""
        loose = loosen(name)
        near = difflib.get_close_matches(loose, self._loose, n=2)
        candidates = self._loose.get(loose) or [self._loose[key][0] for key in near]
        return f"; closest: {', '.join(map(repr, candidates))}" if candidates else ""

    def notes(self, source: str, owner: str = "classes.csv") -> list[str]:
        """What is to be said of names of a source that were found in their owner's list but are written otherwise."""
        if not self._found:
            return []
        written, name = next(iter(self._found.items()))
        return [
            f"{source}: names that differ in case, spaces or the like, taken as those of {owner}: "
            f"{len(self._found)}, such as {written!r} as {name!r}"
        ]

    def twins(self) -> list[list[str]]:
        """Names of the list that [`loosen`] makes the same."""
        return [names for names in self._loose.values() if len(names) > 1]
