"""
Prose as attributes: "a small songbird with a blue head" as the names that a model has for small, blue crown and so on.

A reader is made of the model's own attribute names: `has_wing_color::blue` and "blue wing" are a part and a value,
"hooves" is a value of the whole. To these come general English words, and a model's own `attribute_terms`.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from .names_dedn import describe_attribute, normalize, readable_attribute


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that mean the same. Of each line those that a model has are what the others are read as.
_SAME = (
    "gray|ash|ashy|slate|slaty|silver|silvery|lead",
    "rufous|rusty|rust|russet|chestnut|cinnamon|reddish brown|red brown|rusty brown|brown",
    "buff|buffy|tan|beige|cream|creamy|sandy|fawn|ochre",
    "iridescent|glossy|gloss|shiny|metallic|shimmering|sheen",
    "yellow|gold|golden|lemon",
    "red|crimson|scarlet|vermilion|maroon|blood|ruby",
    "purple|violet|lilac",
    "pink|rosy|rose|salmon|magenta",
    "blue|indigo|azure|turquoise|navy|cobalt|sky",
    "black|jet|sooty|ebony|dark",
    "white|snowy|ivory|whitish|pale|light",
    "brown|brownish|dark brown|chocolate|umber",
    "olive|khaki",
    "green|emerald|greenish",
    "striped|stripe|streak|streaked|streaky|streaking|bar|barred|barring|band|banded|banding|line|lined",
    "spotted|spot|speckled|speckle|dotted|dot|mottled|mottling|fleck|flecked|spotting",
    "solid|plain|uniform|unmarked|unpatterned",
    "multi|multicolored|multicoloured|colorful|colourful|brightly",
    "small|little|petite",
    "very small|tiny|minute",
    "large|big|sizable",
    "very large|huge|enormous|giant",
    "medium|average|moderate|mid|middle sized",
    "hooked|hook",
    "curved|curve|curving|decurved|down curved|downcurved|bent",
    "cone|conical|cone shaped|triangular|finch like|stout|thick",
    "needle|needle like|thin pointed",
    "dagger|dagger like|spear|spear like",
    "spatulate|spoon|spoon shaped|spoonbill",
    "forked|fork|v shaped",
    "notched|notch",
    "fan|fanned|fan shaped",
    "rounded|round",
    "pointed|pointy|sharp|sharply pointed",
    "squared|square",
    "tapered|tapering",
    "broad|wide",
    "crested|crest|tuft|tufted|horn|horned|plume|plumed",
    "masked|mask|facial mask",
    "eyebrow|brow|supercilium|superciliary|eyestripe above",
    "eyering|eye ring|orbital ring|spectacle|spectacled",
    "eyeline|eye line|eye stripe|eyestripe",
    "malar|mustache|moustache|moustachial|mustached|whisker",
    "furry|fur|hairy|hair|woolly",
    "fast|quick|swift",
    "fly|flies|flying",
    "swim|swims|swimming|swimmer",
    # Parts.
    "bill|beak|mandible",
    "belly|abdomen|stomach|tummy",
    "breast|chest",
    "throat|chin|bib|gorget",
    "underparts|underpart|underside|under part|below|beneath|underneath|bottom",
    "upperparts|upperpart|upperside|upper part|mantle|above|top",
    "leg|foot|toe|talon|shank",
    "eye|iris",
    "wing|wingtip|flight feather",
    "nape|hindneck|back of the neck|back of the head|back of its head|collar",
    "crown|cap|top of the head|top of its head",
    "forehead|brow|front of the head",
    "upper tail|uppertail|rump",
    "under tail|undertail|vent",
    "back|mantle|saddle",
)
# What a word says beside its part or value, of which a model takes what it has.
_MEANS = {
    "cap": ("crown", "capped"),
    "capped": ("crown", "capped"),
    "crest": ("crested", "crown"),
    "mask": ("masked",),
    "hood": ("crown", "forehead", "throat", "nape"),
    "hooded": ("crown", "forehead", "throat", "nape"),
    "wingbar": ("wing", "striped"),
    "blackbird": ("black",),
    "bluebird": ("blue",),
}
# A part and those that it is made of. Where a model has no word for one, it is read as the others.
_PARTS_OF = {
    "head": "crown|forehead|nape|face",
    "face": "forehead|cheek|throat",
    "neck": "nape|throat",
    "tail": "upper tail|under tail",
    "upperparts": "back|wing|nape|upper tail",
    "underparts": "belly|breast|throat|under tail",
    "side": "belly|breast",
    "flank": "belly",
    "cheek": "face",
    "shoulder": "wing|back",
    "crown": "head",
    "forehead": "head|crown",
    "lore": "forehead",
    "petal": "flower",
}
_COLORS = _set(
    """
    black white gray brown rufous red orange yellow olive green blue purple pink buff iridescent
    """
)
_SHADES = _set("dark pale light")
_PATTERNS = _set("striped spotted")
# Marks of a face, which have a color of their own.
_FACIAL = _set("eyebrow eyering eyeline masked malar crested capped")
_PROPERTIES = _set("color colour pattern shape length size type texture")
_WHOLE = _set("bird animal mammal creature species body plumage one thing it coat overall")
_WHOLE_PARTS = _set("primary overall general main body whole plumage")
_CARRIERS = _set(
    """
    patch marking mark edge edging tip feather wash area tint tinge hue highlight accent margin rim border base
    fringe
    """
)
_SKIPPED = _set(
    """
    colored coloured sized shaped like feathered looking very really quite rather bright deep brilliant vivid
    rich two three four pair pairs one some many several each both distinctive prominent conspicuous distinct
    noticeable
    """
)
_HEDGES = {
    "often": 0.7, "usually": 0.8, "typically": 0.8, "generally": 0.8, "mostly": 0.8, "mainly": 0.8, "largely": 0.8,
    "sometimes": 0.5, "occasionally": 0.4, "maybe": 0.5, "perhaps": 0.5, "possibly": 0.5, "may": 0.5, "might": 0.5,
    "can": 0.6, "partly": 0.5, "partially": 0.5, "slightly": 0.5, "somewhat": 0.6, "faintly": 0.4, "faint": 0.4,
    "rarely": 0.2, "seldom": 0.2, "hint": 0.3, "touch": 0.3,
}  # fmt: skip
_NEGATIONS = _set(
    """
    no not without lacks lack lacking never none neither nor isn't aren't doesn't hasn't absent
    """
)
_EXCEPTIONS = _set("except excepting excluding besides")
_ALL = _set("all entirely completely wholly uniformly totally entire")
_DETERMINERS = _set("a an the its his her their this that")
_LOCATIVES = _set("on of in at down along across over through around behind above near under to from up")
_COPULAS = _set("is are was were be appears looks seems being")
_HAVING = _set("with has have had having shows sports wearing wears featuring features")
_BREAKS = _set(". ; ! ? : ( ) but while whereas whose although though")
_JOINS = _set("and or , / & as well plus")
_STOPPED = _set(
    """
    it they them he she there these those who which what when where found live lives living see seen up for by into
    than then so also too just about such more most less other only own does do did s if adult
    downward downwards upward upwards
    """
)  # of which nothing is made, and nothing is missed
# Strengths: of each of "red or yellow", of the color of a patch, and of that of a bird in its parts where a model has
# no color of the whole.
_OR = 0.6
_CARRIED = 0.6
_ALL_PARTS = 0.7
_SEXES = {"male": "male", "females": "female", "female": "female", "males": "male", "hen": "female", "drake": "male"}
_IRREGULAR = {
    "feet": "foot", "hooves": "hoof", "teeth": "tooth", "leaves": "leaf", "wolves": "wolf", "grey": "gray",
    "greyish": "grayish", "darker": "dark", "lighter": "light", "paler": "pale", "colour": "color", "underparts":
    "underparts", "upperparts": "upperparts", "toes": "toe",
}  # fmt: skip
_NUMBER = r"(\d+(?:\.\d+)?)"
_UNITS = {
    "in": 1.0,
    "inch": 1.0,
    "inches": 1.0,
    '"': 1.0,
    "cm": 1 / 2.54,
    "centimeters": 1 / 2.54,
    "centimetres": 1 / 2.54,
}
_LENGTH = re.compile(
    rf"{_NUMBER}(?:\s*(?:-|–|to|and)\s*{_NUMBER})?[\s-]*(inches|inch|in|cm|centimeters|centimetres)\b"
    r"(?:\s+(?:long|tall|in length|in size))?",
    re.IGNORECASE,
)
_MARK = r"\b(?:stripe|line|streak|band|bar|stroke|patch|mark)s?\s+(?:running\s+|just\s+)?"
_EYES = r"\s+(?:the\s+|its\s+|each\s+|their\s+|both\s+|his\s+|her\s+)?((?:[\w-]+\s+)?)eyes?\b"
# Marks of the face have names, which people describe.
_FACES = (
    ("eyebrow", re.compile(rf"{_MARK}(?:above|over){_EYES}", re.IGNORECASE)),
    ("eyeline", re.compile(rf"{_MARK}(?:through|behind|across|from|past){_EYES}", re.IGNORECASE)),
    ("eyering", re.compile(rf"\b(?:ring|circle)s?\s+(?:around|about|round|surrounding){_EYES}", re.IGNORECASE)),
)
_LONGEST = 8  # words of a phrase


def _lemma(word: str) -> str:
    word = _IRREGULAR.get(word, word)
    if word in _IRREGULAR.values() or len(word) < 4:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if re.search(r"(s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _stem(lemma: str) -> str:
    """What "striped", "stripe" and "stripy" have in common."""
    stem = re.sub(r"(?:ing|ed|ish|y|e)$", "", lemma) if len(lemma) > 4 else lemma
    stem = re.sub(r"([bdgklmnprtz])\1$", r"\1", stem)
    return stem if len(stem) >= 3 else lemma


def _words(text: str) -> list[str]:
    return [_lemma(word) for word in re.findall(r"[^\W_]+(?:'[^\W_]+)?", normalize(text).casefold())]


def _key(text: str | Sequence[str]) -> str:
    words = _words(text) if isinstance(text, str) else text
    return " ".join(word for word in words if word not in _SKIPPED or word in ("very",)) or " ".join(words)


class UnderstoodResult(TypedDict):
    """
    What a description in prose was understood as.

    Args:
        attributes (`dict[str, float]`):
            Attribute, as `config.attribute_names` has it → strength from 0 to 1; 0 is what the class has not.
        sources (`dict[str, str]`):
            The same attributes → the words that each is from.
        unread (`list[str]`):
            Words of which nothing was made.
    """

    attributes: dict[str, float]
    sources: dict[str, str]
    unread: list[str]


@dataclass
class _Entry:
    """What a word or phrase is read as."""

    parts: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    attributes: list[str] = field(default_factory=list)

    def add(self, other: "_Entry"):
        for name in ("parts", "values", "attributes"):
            mine = getattr(self, name)
            mine += [entry for entry in getattr(other, name) if entry not in mine]

    def __bool__(self) -> bool:
        return bool(self.parts or self.values or self.attributes)


@dataclass
class _Value:
    entry: _Entry
    weight: float
    words: str
    join: str = ""


@dataclass
class _Statement:
    attribute: str
    strength: float
    words: str
    is_general: bool = False
    sex: str = ""


class _Reader:
    """The words of a model's attributes, and what is understood by them."""

    def __init__(self, names: Sequence[str], terms: Sequence[tuple[str, tuple[str, ...]]]):
        self.by_part: dict[str, dict[str, str]] = {}
        self.part_of: dict[str, str] = {}
        self.sizes: list[tuple[float, float, str]] = []
        self.entries: dict[str, _Entry] = {}
        for name in names:
            self._add_name(name)
        own = dict(self.entries)
        for part, members in _PARTS_OF.items():
            if part not in own:
                found = [own[_key(member)] for member in members.split("|") if own.get(_key(member), _Entry()).parts]
                if found:
                    self.entries[_key(part)] = _Entry(parts=[_key(part)])
        own = dict(self.entries)
        for group in _SAME:
            members = [_key(member) for member in group.split("|")]
            known = [own[member] for member in members if member in own]
            for member in members if known else []:
                if member not in own:
                    self.entries.setdefault(member, _Entry()).add(known[0])
        for term, targets in _MEANS.items():
            entry = _Entry()
            for target in targets:
                entry.add(own.get(_key(target), _Entry()))
            if entry and (term not in own or entry.parts):
                self.entries[_key(term)] = entry
        self.stems = {}
        for key, entry in self.entries.items():
            if " " not in key and entry.values:
                self.stems.setdefault(_stem(key), entry)
        own = dict(self.entries)
        by_name = {name: _Entry(attributes=[name]) for name in names}
        for term, targets in terms:
            entry = _Entry()
            for target in targets:
                found = by_name.get(target) or own.get(_key(target))
                if found is None:
                    raise ValueError(
                        f"`attribute_terms` reads {term!r} as {target!r}, which is neither an attribute of the model "
                        "nor a word of their names. Name an attribute, or a word such as a part or a color."
                    )
                entry.add(found)
            self.entries[_key(term)] = entry

    def _add_name(self, name: str):
        text = re.sub(r"\([^)]*\)", " ", name)
        text = re.sub(r"^has[_ ](?=\S)", "", text)
        left, separator, right = (part.replace("_", " ") for part in re.match(r"(.*?)(::|: ?|$)(.*)", text).groups())
        if separator:
            words = _words(left)
            is_property = bool(words) and words[-1] in _PROPERTIES
            part = " ".join(words[:-1] if is_property else words)
            if part in _WHOLE_PARTS or not is_property:
                part = ""
            values = right.split("/")
        else:
            part, values = "", left.split("/")
        for value in values:
            words = _words(value)
            if not words:
                continue
            if not separator and len(words) > 1 and not set(words) & _LOCATIVES and words[0] not in _NEGATIONS:
                self._add(words[-1], _key(words[:-1]), name)
                self.entries.setdefault(_key(words), _Entry()).attributes.append(name)
                continue
            if re.search(r"\b(longer|shorter|larger|smaller)\b", value):
                words = [re.search(r"\b(long|short|larg|small)", value)[1].replace("larg", "large")]
            elif re.search(r"\b(about|same)\b", value):
                words = ["medium"]
            stripped = [word for word in words if word not in part.split()]
            self._add(part, _key(stripped or words), name)
        for written in {readable_attribute(name), describe_attribute(name)}:
            if len(words := _words(re.sub(r"\([^)]*\)", " ", written))) > 2:
                entry = self.entries.setdefault(" ".join(words), _Entry())
                if not entry:
                    entry.attributes.append(name)
        inches = re.search(rf"\({_NUMBER}_?\s*-\s*_?{_NUMBER}_?\s*(in|cm)\)", name.replace("_", " "))
        if inches:
            unit = _UNITS[inches[3]]
            self.sizes.append((float(inches[1]) * unit, float(inches[2]) * unit, name))

    def _add(self, part: str, value: str, name: str):
        self.by_part.setdefault(part, {}).setdefault(value, name)
        self.part_of[name] = part
        entry = self.entries.setdefault(value, _Entry())
        if value not in entry.values:
            entry.values.append(value)
        if part and part not in self.entries.setdefault(part, _Entry()).parts:
            self.entries[part].parts.append(part)

    # What a phrase says.

    def find(self, words: Sequence[str]) -> tuple[int, _Entry | None]:
        """How many of the words are the longest phrase that is known, and what it is read as."""
        for count in range(min(_LONGEST, len(words)), 0, -1):
            key = " ".join(words[:count])
            entry = self.entries.get(key)
            if entry:
                return count, entry
            if count == 1:
                stem = re.fullmatch(r"(.+?)(?:ed|ish)", key)
                if stem and (entry := self.entries.get(_IRREGULAR.get(stem[1], stem[1]))):
                    return 1, entry
                if stem and (entry := self.entries.get(re.sub(r"(.)\1$", r"\1", stem[1]).removesuffix("i") + "y")):
                    return 1, entry
                if key.endswith("ied") and (entry := self.entries.get(key[:-3] + "y")):
                    return 1, entry
                if (entry := self.stems.get(_stem(key))) and len(key) > 3:
                    return 1, entry
        return 1, None

    def attributes_of(self, parts: Sequence[str], value: str) -> list[str]:
        found = []
        for part in parts or [""]:
            levels = [[part]]
            for _ in range(2):
                members = (_PARTS_OF.get(whole, "").split("|") for whole in levels[-1])
                levels.append([_key(member) for of_whole in members for member in of_whole if member])
            levels.append([_key(whole) for whole, of in _PARTS_OF.items() if part in map(_key, of.split("|"))])
            for level in levels:
                names = [self.by_part[other][value] for other in level if value in self.by_part.get(other, {})]
                if names:
                    found += names
                    break
        return list(dict.fromkeys(found))

    def everywhere(self, value: str) -> list[str]:
        return [values[value] for values in self.by_part.values() if value in values]


class _Text:
    """A text as it is read, sentence by sentence."""

    def __init__(self, reader: _Reader):
        self.reader = reader
        self.statements: list[_Statement] = []
        self.unread: list[str] = []
        self.written: dict[str, str] = {}  # marks of a face → as the text describes them

    def state(self, attributes, strength: float, words: str, is_general: bool = False):
        if self.negated:
            strength, words = 0.0, f"no {words}"
        words = self._as_written(words)
        for name in attributes:
            self.statements.append(_Statement(name, strength, words, is_general, self.sex))

    def miss(self, words: str):
        words = self._as_written(words)
        if words and words not in self.unread:
            self.unread.append(words)

    def read(self, text: str):
        text = normalize(text).replace("’", "'")
        if self.reader.sizes:
            text = _LENGTH.sub(self._read_length, text)
        for name, pattern in _FACES:
            if name in self.reader.entries:
                text = pattern.sub(functools.partial(self._read_mark, name), text)
        for sentence in re.split(r"[.;!?\n]+(?:\s|$)", text):
            self._read_sentence(sentence)

    def _read_mark(self, name: str, match: re.Match) -> str:
        self.written[name] = match[0]
        return name + (f" and {match[1]}eyes" if match[1] else "")

    def _as_written(self, words: str) -> str:
        for name, written in self.written.items():
            words = re.sub(rf"\b{name}\b", lambda _, written=written: written, words)
        return words

    def _read_length(self, match: re.Match) -> str:
        if re.search(
            r"wing\s*-?span|wings\W+span", match.string[max(0, match.start() - 30) : match.end() + 12], re.IGNORECASE
        ):
            return match[0]
        unit = _UNITS[match[3].lower()]
        middle = unit * (float(match[1]) + float(match[2] or match[1])) / 2
        self.sex, self.negated = "", False
        self.state([name for least, most, name in self.reader.sizes if least <= middle < most][:1], 1.0, match[0])
        return ","

    def _read_sentence(self, sentence: str):
        written = re.findall(r"[^\W_]+(?:'[^\W_]+)?|[-,/&:()]", sentence)
        words = [_lemma(word.casefold()) for word in written]
        raw = [word.casefold() for word in written]
        self.sex, self.negated, self.hedge, self.all = "", False, 1.0, False
        self.excepted = False
        self.values: list[_Value] = []  # said, and not yet of anything
        self.given: list[_Value] = []  # of the last part
        self.parts: list[str] = []  # those that are spoken of
        self.subject: list[str] = []  # those before "with"
        self.is_copula, self.after_part, self.pending_part = False, False, None
        self.join = ""
        place = 0
        while place < len(words):
            word = raw[place]
            ahead = [w for w in words[place : place + 2 * _LONGEST] if w not in ("-", ":")][:_LONGEST]
            count, entry = self.reader.find(ahead)
            if word == "-":
                place += 1
                continue
            if words[place] in _SKIPPED | _PROPERTIES and entry is None:
                place += 1
                continue
            reserved = self._reserved(word, words[place], place, words, entry if count > 1 else None)
            if reserved:
                place += 1
                continue
            if entry is None:
                self._unknown(written[place], words, place)
                place += 1
                continue
            used, end = 0, place
            while used < count:
                used += words[end] not in ("-", ":")
                end += 1
            said = " ".join(written[place:end]).replace(" - ", "-").replace(" :", ":")
            self._known(entry, said, words, raw, end)
            place = end
        self._flush()

    def _reserved(self, word: str, lemma: str, place: int, words: Sequence[str], longer: _Entry | None) -> bool:
        """Whether it is a word of the grammar, and not the first of a longer phrase; then it is read."""
        if longer:
            return False
        if lemma in ("male", "female") or word in _SEXES:
            self._flush()
            self.sex, self.parts, self.given = _SEXES.get(word, lemma), [], []
        elif word == ":" and self.pending_part:
            self.is_copula, self.after_part = True, False
        elif word in _BREAKS:
            self._flush()
            self.negated, self.excepted, self.is_copula, self.hedge = False, False, False, 1.0
            self.parts, self.given, self.subject = [], [], []
        elif word in _NEGATIONS or word.endswith("n't"):
            self._flush()
            self.negated, self.given = True, []
        elif word in _EXCEPTIONS:
            self._flush()
            self.excepted, self.is_copula, self.parts, self.given = True, False, [], []
        elif word in _ALL:
            self.all = True
        elif word in _HEDGES:
            self.hedge = _HEDGES[word]
        elif word in _COPULAS and place and words[place - 1] == "there":
            pass
        elif word in _COPULAS:
            if self.values and not self.parts:
                self._flush()
            self.is_copula, self.after_part = True, False
        elif word in _HAVING:
            self._flush()
            self.subject, self.is_copula, self.given = self.parts, False, []
            self.negated = self.negated and word in ("have", "has", "having")
        elif word in _DETERMINERS:
            if self.join and not self.excepted:
                if self.values:
                    self._flush()
                self.given, self.negated, self.is_copula = [], self.negated and self.join == "or", False
            self.after_part = False
        elif (
            word in ("above", "below", "beneath", "underneath")
            and self.values
            and (place + 1 == len(words) or words[place + 1] in _JOINS | _BREAKS | {"with"})
        ):
            return False
        elif word in _LOCATIVES:
            self.after_part = False
        elif word in _JOINS:
            self.join = word if word in ("or", "and") or not self.join else self.join
            if self.values and word in ("or", "and", "/"):
                self.values[-1].join = "or" if word in ("or", "/") else "and"
            self.after_part = False
        elif word in _STOPPED or word.isdigit():
            pass
        else:
            return False
        if word not in _JOINS:
            self.join = ""
        return True

    def _known(self, entry: _Entry, said: str, words: Sequence[str], raw: Sequence[str], end: int):
        following = words[end] if end < len(words) else ""
        if entry.attributes:
            self.state(entry.attributes, self.hedge, said)
            if not entry.parts and not entry.values:
                self._say([], self.values, "")
                self.values, self.after_part = [], False
                return
        is_noun = (
            raw[end - 1].endswith("s")
            or not following
            or following in _LOCATIVES | _JOINS | _BREAKS | _COPULAS | _HAVING
        )
        pattern = [value for value in entry.values if value in _PATTERNS]
        if entry.parts:
            self._part(entry, said, following)
        elif pattern and self.after_part:  # wing bars
            self._say(self.parts, [_Value(entry, self.hedge, said)], said)
        elif pattern and is_noun and not said.endswith("ed") and not self.is_copula:
            self._mark(_Value(entry, self.hedge, said), following)
        elif is_noun and _FACIAL.intersection(entry.values) and not self.is_copula:
            for value in self.values:
                self.miss(f"{value.words} {said}")
            for key in entry.values:
                self.state(self.reader.everywhere(key), self.hedge, said)
            self.values, self.after_part, self.parts, self.given = [], False, [], []
        else:
            weight = self.hedge * (0.7 if said.casefold().endswith("ish") else 1.0)
            if words[end - 1] in _SHADES and following in ("-", *_COLORS):
                return  # of dark brown
            if words[end - 1] in _SHADES:
                weight *= 0.6
            if self.after_part and not self.is_copula:
                self.given = []
                self.is_copula = self.pending_part is not None  # "wings brown"
            self.values.append(_Value(entry, weight, said))
            self.after_part = False
        self.join = ""

    def _part(self, entry: _Entry, said: str, following: str):
        fresh = bool(self.values)
        if self.is_copula and self.parts and fresh and self.join:
            self._flush()
            fresh, self.given, self.parts = False, [], []
        if self.is_copula and not fresh:
            self.is_copula, self.given = False, []
        values = self.values if fresh else (self.given if self.join in ("and", "or", ",") else [])
        before = self.parts if self.join in ("and", "or", ",") else []
        own = [_Value(_Entry(values=entry.values), self.hedge, said)] if entry.values else []
        if self.excepted and not values:
            self.state([n for part in entry.parts for n in self._stated_of(part)], 0.0, f"except {said}")
        elif self.excepted:
            self.state([n for part in entry.parts for n in self._stated_of(part)], 0.0, f"except {said}")
            self._say(entry.parts, values, said)
        else:
            self._say(entry.parts, values, said, bool(own or self.reader.find([following])[1]))
        for value in own:
            for key in value.entry.values:
                self.state(self.reader.everywhere(key)[:1], self.hedge, said)
        self.pending_part = None if values or own or self.excepted else said
        self.given, self.values = list(values), []
        self.parts = [*before, *entry.parts] if not fresh or not before else [*entry.parts]
        self.after_part, self.all = True, False
        self.hedge = 1.0

    def _stated_of(self, part: str) -> list[str]:
        stated = {statement.attribute for statement in self.statements if statement.strength > 0}
        whole = {value for name in stated if not self.reader.part_of.get(name, "") for value in self._values_of(name)}
        return [name for value, name in self.reader.by_part.get(part, {}).items() if value in whole or name in stated]

    def _values_of(self, name: str) -> list[str]:
        return [
            value
            for value, other in self.reader.by_part.get(self.reader.part_of.get(name, ""), {}).items()
            if other == name
        ]

    def _mark(self, mark: _Value, following: str):
        """Stripes, spots: of the part that follows, of that before "with", or of the whole."""
        values = [*self.values, mark]
        if following in _LOCATIVES:
            self.values = values
            self.values[-1].join = "and"
            return
        self._say(self.subject or (self.parts if self.after_part else []), values, mark.words)
        self.values, self.after_part = [], False

    def _say(self, parts: Sequence[str], values: Sequence[_Value], said: str, is_compound: bool = False):
        alternatives = any(value.join == "or" for value in values)
        for value in values:
            for key in value.entry.values:
                strength = value.weight * (_OR if alternatives and key in _COLORS else 1.0)
                words = f"{value.words} {said}" if said and said != value.words else value.words
                if self.all and key in _COLORS and not parts:
                    self.state(self.reader.everywhere(key), strength, f"all {value.words}", True)
                    continue
                names = self.reader.attributes_of(parts, key)
                if not names and not parts:
                    names = self.reader.everywhere(key)
                    if key in _COLORS:
                        self.state(names, strength * _ALL_PARTS, words, True)
                        continue
                    names = names if len(names) == 1 else []
                self.state(names, strength, words)
                if not names:
                    self.miss(words)
        if self.negated and not values and parts and not is_compound:
            self.state(
                [name for part in parts for name in self.reader.by_part.get(part, {}).values()], 0.0, f"no {said}"
            )

    def _unknown(self, word: str, words: Sequence[str], place: int):
        lemma = words[place]
        following = words[place + 1] if place + 1 < len(words) else ""
        is_first = not self.statements and not self.parts and not self.is_copula
        if lemma in _WHOLE or lemma.endswith("bird") or (is_first and self.values and following in _HAVING | {"that"}):
            if lemma not in _WHOLE:
                self.miss(word)
            if self.is_copula and self.parts and not self.values:
                return
            if self.values and not (self.is_copula and self.parts):
                self._say([], self.values, word)
                self.given, self.values = list(self.values), []
                self.parts = []
            self.after_part, self.join, self.all, self.hedge = False, "", False, 1.0
            return
        if lemma in _CARRIERS:
            if following in _LOCATIVES and self.values:
                for value in self.values:
                    value.weight *= _CARRIED
            elif self.values:
                for value in self.values:
                    value.weight *= _CARRIED
                self._say(self.subject or self.parts, self.values, word)
                self.values = []
            self.join = ""
            return
        self.miss(word)
        if self.is_copula and self.parts:
            self._flush()
        ends = not following or following in _LOCATIVES | _JOINS | _BREAKS | _COPULAS | _HAVING
        if ends and self.values and not lemma.endswith("ly") and not self.is_copula:
            for value in self.values:
                self.miss(value.words)
            self.values = []
        if ends:
            self.parts, self.after_part, self.given = [], False, []
        self.join = ""

    def _flush(self):
        """Values that no part followed are of the parts before, if they are said of them, or of the whole."""
        if self.values:
            parts = self.parts if self.is_copula else self.subject if self.negated else []
            self._say(parts, self.values, " ".join(parts) if parts else "")
        self.values, self.all, self.hedge, self.after_part = [], False, 1.0, False

    def result(self) -> UnderstoodResult:
        denied = {s.attribute for s in self.statements if s.strength == 0}
        particular = {
            self.reader.part_of.get(s.attribute) for s in self.statements if not s.is_general and s.strength > 0
        } - {"", None}
        strengths, sources = {}, {}
        for statement in self.statements:
            name = statement.attribute
            if statement.is_general and self.reader.part_of.get(name) in particular:
                continue
            by_sex = strengths.setdefault(name, {})
            by_sex[statement.sex] = max(by_sex.get(statement.sex, 0.0), statement.strength)
            words = sources.setdefault(name, [])
            if statement.words not in words:
                words.append(statement.words)
        attributes = {}
        for name, by_sex in strengths.items():
            of_both = by_sex.pop("", None)
            half = sum(by_sex.values()) / 2
            strength = half if of_both is None else max(of_both, half)
            attributes[name] = 0.0 if name in denied else round(min(strength, 1.0), 4)
        return {
            "attributes": attributes,
            "sources": {name: ", ".join(words) for name, words in sources.items()},
            "unread": self.unread,
        }


@functools.lru_cache(maxsize=16)
def _reader(names: tuple[str, ...], terms: tuple[tuple[str, tuple[str, ...]], ...]) -> _Reader:
    return _Reader(names, terms)


def understand(config, text: str | Sequence[str]) -> UnderstoodResult:
    """
    Reads prose as attributes of a model: by the names of its attributes, by its `attribute_terms` and by general
    English words for the same. It knows lists ("head and neck"), negation ("no eyebrow", "without", "except"), hedges
    ("often", "sometimes"), sizes ("12 inches"), "all black", and males and females, of which each counts half.

    Args:
        config ([`DednConfig`]):
            Has the names.
        text (`str` or `list[str]`):
            The prose, or its sentences.

    Returns:
        [`UnderstoodResult`]: empty where nothing was understood.

    Raises:
        ValueError: If `attribute_terms` read a word as something that the model has not.
    """
    terms: Mapping[str, Sequence[str]] = getattr(config, "attribute_terms", None) or {}
    reader = _reader(tuple(config.attribute_names), tuple((term, tuple(names)) for term, names in terms.items()))
    read = _Text(reader)
    for sentence in [text] if isinstance(text, str) else text:
        read.read(sentence)
    return read.result()


__all__ = ["UnderstoodResult", "understand"]
