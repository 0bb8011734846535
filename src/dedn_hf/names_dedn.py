"""Names of classes and attributes: as people read them, and found in a list however they are written."""

import difflib
import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ`´", "'"))
# As CUB numbers its classes: `047.American_Goldfinch`.
_NUMBERED = re.compile(r"\s*(\d{3})\.\s*(?=[^\W\d])")


def normalize(text: str) -> str:
    """Text without space around it, in Unicode's normal form C: some systems store `é` as two characters."""
    return unicodedata.normalize("NFC", text).strip()


def loosen(name: str) -> str:
    """
    What is left of a name without what people write in different ways: case, spaces, underscores, hyphens and colons,
    how many of them, invisible characters, forms of characters that look alike, the possessive `'s`, British spellings
    of color and gray, the number of a class and the `has_` of an attribute.

    Args:
        name (`str`):
            The name.
    """
    return _spellings(name)[0]


def _spellings(name: str) -> list[str]:
    """As [`loosen`]; where there is an apostrophe, also with the s after it: CUB has Brandt and Forsters."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(_APOSTROPHES)
    kinds = [(character, unicodedata.category(character)) for character in text]
    text = "".join(" " if kind == "Pd" else character for character, kind in kinds if kind != "Cf")
    text = re.sub(r"(?<=\w)\+(?=\w)|:", " ", _NUMBERED.sub("", text, count=1))
    text = re.sub(r"[\s_]+", " ", text).strip().removeprefix("has ")
    text = re.sub(r"\bgrey", "gray", text.replace("colour", "color"))
    spellings = (re.sub(r"'s\b|'", "", text), text.replace("'", ""))
    return list(dict.fromkeys(" ".join(spelling.split()) for spelling in spellings))


def readable_classes(names: Sequence[str]) -> list[str]:
    """
    Names of classes as people read them: `047.American_Goldfinch` is "American Goldfinch". Those without a number stay
    as they are, and so do all of them if two would be the same.

    Args:
        names (`Sequence[str]`):
            The official names.
    """
    readable = [
        normalize(name[match.end() :].replace("_", " ")) if (match := _NUMBERED.match(name)) else name
        for name in names
    ]
    return readable if len(set(readable)) == len(set(names)) else list(names)


def readable_attribute(name: str) -> str:
    """
    An attribute's name as people read it: `has_wing_color::blue` is "wing color: blue". Names of another form only
    lose their underscores.
    """
    return re.sub(r"^has_(.+?)::", r"\1: ", name).replace("_", " ")


def describe_attribute(name: str, is_less: bool = False, score: float = 0.0) -> str:
    """
    An attribute in the words of a reason: `has_wing_color::red` is "red wing", `has_bill_length::shorter_than_head` is
    "bill length: shorter than head". Names of another form only lose their underscores.

    Args:
        name (`str`):
            Its name.
        is_less (`bool`, *optional*, defaults to `False`):
            Whether the reason is that there is less of it than usual: "no red wing", "bill length: not shorter than
            head".
        score (`float`, *optional*, defaults to 0):
            From 0 to 1, how much of it there is all the same. From a quarter on it is "less red wing".
    """
    words = _words(name)
    if not is_less:
        return words
    part, colon, value = words.partition(": ")
    if colon:
        return f"{part}: not {value}"
    return f"{'no' if score < 0.25 else 'less'} {words}"


def question_about(name: str) -> str:
    """
    What to ask a person about an attribute: of `has_wing_color::blue` "Is the wing color blue?", of a name of another
    form "Does it have this: red wing?".
    """
    what, value = split_attribute(name)
    return f"Is the {what} {value}?" if value else f"Does it have this: {what}?"


def split_attribute(name: str) -> tuple[str, str]:
    """
    The property that an attribute is a value of, and the value, as people read them: of `has_wing_color::blue` "wing
    color" and "blue". A name of another form is a property without a value.
    """
    match = re.fullmatch(r"(?:has_)?(.+?)(?:::|: )(.+)", name)
    what, value = match.groups() if match else (name, "")
    return what.replace("_", " "), value.replace("_", " ")


def _words(name: str) -> str:
    match = re.fullmatch(r"has_(?:(?P<part>\w+)_)?(?P<quality>color|pattern|shape|length|size)::(?P<value>.+)", name)
    if match is None:
        return name.replace("_", " ")
    part, quality, value = (text.replace("_", " ") for text in (match["part"] or "", match["quality"], match["value"]))
    if part and re.search(rf"\b{re.escape(part)}s?$", value):
        return value.replace("-", " ")  # "forked_tail" of has_tail_shape
    if " " in value or part == "primary":
        return f"{part} {quality}: {value}".strip()
    return f"{value} {part or quality}"


def _have_same_number(name: str, other: str) -> bool:
    """Whether two names have the same number, or one of them has none."""
    number, another = map(_NUMBERED.match, (name, other))
    return number is None or another is None or number[1] == another[1]


class NameMatcher:
    """
    Finds names in a list: as they are or, where only one of the list differs in nothing but what [`loosen`] takes
    away, as that; an attribute also by the words of [`describe_attribute`]. Two names with numbers of which only the
    numbers differ are two.

    Args:
        names (`Iterable[str]`):
            The list.
    """

    def __init__(self, names: Iterable[str]):
        self.names = {normalize(name): name for name in names}
        self._loose, self._worded, self._joined, self._found = {}, {}, {}, {}
        for name in self.names.values():
            for spelling in _spellings(name):
                self._loose.setdefault(spelling, []).append(name)
                self._joined.setdefault(spelling.replace(" ", ""), []).append(name)
            self._worded.setdefault(loosen(_words(name)), []).append(name)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        """Whether the name may be one of the list."""
        return normalize(name) in self.names or bool(self.find_like(name))

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
        candidates = self.find_like(name)
        if len(candidates) != 1:
            return None
        self._found[name] = candidates[0]
        return candidates[0]

    def find_like(self, name: str) -> list[str]:
        """All of the list that may be meant by a name that is not in it as it is."""
        spellings = list(filter(None, _spellings(name)))
        joined = [spelling.replace(" ", "") for spelling in spellings]
        for known, keys in ((self._loose, spellings), (self._worded, spellings), (self._joined, joined)):
            others = dict.fromkeys(other for key in keys for other in known.get(key, []))
            candidates = [other for other in others if _have_same_number(name, other)]
            if candidates:
                return candidates
        return []

    def closest(self, name: str) -> str:
        """What is to be added to the complaint that a name is not in the list: which of the list may be meant."""
        near = difflib.get_close_matches(loosen(name), self._loose, n=2)
        candidates = self.find_like(name) or list(dict.fromkeys(self._loose[key][0] for key in near))
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
        groups = ([other for other in names if _have_same_number(names[0], other)] for names in self._loose.values())
        return [list(names) for names in dict.fromkeys(tuple(names) for names in groups if len(names) > 1)]


@functools.lru_cache(maxsize=16)
def matcher_of(names: tuple[str, ...]) -> NameMatcher:
    """A [`NameMatcher`] of names that are asked for again and again: it is made once."""
    return NameMatcher(names)


__all__ = [
    "NameMatcher",
    "describe_attribute",
    "loosen",
    "matcher_of",
    "normalize",
    "question_about",
    "readable_attribute",
    "readable_classes",
    "split_attribute",
]
