"""The table of classes, `class,<attribute>,…`: how strongly each class has each attribute, 0 to 1 or 0 to 100."""

import codecs
import csv
import io
import json
import math
import os
import re
import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..files import printable, replacing
from ..names_dedn import NameMatcher, normalize
from ..ranks_dedn import circle_of_parents
from .sheets import SUFFIXES, UNREAD_SUFFIXES, read_sheet
from .strengths import read_scale, read_strengths

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Columns of a class table that are no attributes. A parent is the rank above a class.
RESERVED = ("parent", "description")


@dataclass
class ClassTable:
    """
    What a table of classes says.

    Args:
        class_names (`list[str]`):
            The K classes in the order of their rows.
        attribute_names (`list[str]`):
            The A attributes in the order of their columns.
        class_attributes (`np.ndarray` of shape `(K, A)`, float32, *optional*):
            Strengths as fractions; `None` if there are problems, or nobody asked. NaN where they are unknown, until
            [`~ClassTable.fill_unknown`].
        understood (`list[str]`):
            What was found, one line each.
        notes (`list[str]`):
            Those of them that were taken in a way that could have been meant otherwise.
        problems (`list[str]`):
            What is wrong with it, one line each. With any, the rest may be incomplete.
        table_name (`str`):
            What the file is called in all these.
        top (`float`, *optional*):
            The top of the scale of its strengths as they are written; `None` where they are words or have per cent
            signs.
        class_parents (`dict[str, str]`):
            Class → the rank above it, of those that have one in the column `parent`.
        prose (`dict[str, str]`):
            Class → its cell of the column `description`, where there is one and it is not empty.
    """

    class_names: list[str] = field(default_factory=list)
    attribute_names: list[str] = field(default_factory=list)
    class_attributes: np.ndarray | None = None
    understood: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    table_name: str = ""
    top: float | None = None
    class_parents: dict[str, str] = field(default_factory=dict)
    prose: dict[str, str] = field(default_factory=dict)

    def read_classes(
        self,
        file: str | os.PathLike,
        names_only: bool = False,
        attribute_scale: str | float | None = None,
        with_prose: bool = False,
    ):
        """
        Reads a table of classes, and notes all that is wrong with it instead of stopping at it.

        Args:
            file (`str` or `os.PathLike`):
                CSV file with the header `class,<attribute>,…`.
            names_only (`bool`, *optional*, defaults to `False`):
                Whether to look at the first column alone.
            attribute_scale (`str` or `float`, *optional*):
                What strengths are: `"unit"` (0 to 1), `"percent"` (0 to 100), or from 0 to this number. By default
                the first or the second, as the table as a whole says; what may be neither is wrong.
            with_prose (`bool`, *optional*, defaults to `False`):
                Whether classes may be described in a column `description`, and what that leaves out is unknown.

        Raises:
            ValueError: If there is no such `attribute_scale`.
        """
        file, wrong, top = Path(file), self.problems.append, read_scale(attribute_scale)
        self.table_name = file.name
        header, rows = read_table(file, "class", self.problems, notes=self.understood)
        self.class_names = list(rows)
        if not rows and not self.problems:
            wrong(f"{file.name}: it has no classes")
        if not rows or names_only:
            return
        reserved = [place for place, name in enumerate(header) if place and name.casefold() in RESERVED]
        parents = [place for place in reserved if header[place].casefold() == "parent"]
        if parents:
            self._read_parents({name: (number, cells[parents[0]]) for name, (number, cells) in rows.items()})
        if reserved:
            prose = [place for place in reserved if with_prose and header[place].casefold() == "description"]
            for place in prose:
                self.prose = {name: cells[place] for name, (_, cells) in rows.items() if cells[place]}
                self.understood.append(f"{file.name}: classes described in prose: {len(self.prose)}")
            names = ", ".join(header[place] for place in reserved if place not in (*prose, *parents))
            if names:
                self.note(f"{file.name}: columns that are not read as attributes: {names}")
            header = [name for place, name in enumerate(header) if place not in reserved]
            rows = {
                name: (number, [cell for place, cell in enumerate(cells) if place not in reserved])
                for name, (number, cells) in rows.items()
            }
        self.attribute_names = header[1:]
        if not self.attribute_names and self.prose:
            self.problems += [
                f"{file.name}, line {number}: class {name!r} is described by nothing"
                for name, (number, _) in rows.items()
                if name not in self.prose
            ]
            self.class_attributes = np.zeros((len(rows), 0), np.float32)
            return
        if not self.attribute_names:
            wrong(f"{file.name}, line 1: there are no attributes after 'class'")
            return
        for place, name in enumerate(self.attribute_names):
            if not name:
                wrong(f"{file.name}, line 1: attribute {place + 1} has no name")
            elif name in self.attribute_names[:place]:
                wrong(f"{file.name}, line 1: attribute {name!r} is there twice")
        lines = [f"{file.name}, line {number} ({name})" for name, (number, _) in rows.items()]
        cells = [cells[1:] for _, cells in rows.values()]
        strengths = read_strengths(cells, self.attribute_names, lines.__getitem__, top)
        self.problems += strengths.problems
        unknown = np.isnan(strengths.values)
        if not self.problems and not self.prose:
            for column in np.flatnonzero(unknown.all(0)):
                wrong(
                    f"{file.name}: attribute {self.attribute_names[column]!r} is unknown in all classes: give it "
                    "strengths, or leave it out"
                )
        if self.problems:
            return
        for kind, names in (("classes", self.class_names), ("attributes", self.attribute_names)):
            for one, other, *_ in NameMatcher(names).twins():
                self.note(f"{file.name}: {one!r} and {other!r} are two {kind}, alike but for case, spaces or the like")
        self.class_attributes, self.top = strengths.values.astype(np.float32), strengths.top
        self.understood.append(
            f"{file.name}: {len(cells)} classes, {len(self.attribute_names)} attributes, strengths {strengths.scale}"
        )
        self.note(*(f"{file.name}: {note}" for note in strengths.notes))

    def _read_parents(self, cells: Mapping[str, tuple[int, str]]):
        self.class_parents = {name: cell for name, (_, cell) in cells.items() if cell}
        ranks = list(dict.fromkeys(self.class_parents.values()))
        self.understood.append(f"{self.table_name}: {len(self.class_parents)} classes under {len(ranks)} parents")
        for one, other, *_ in NameMatcher(ranks).twins():
            self.note(
                f"{self.table_name}: {one!r} and {other!r} are two parents, alike but for case, spaces or the like"
            )
        if circle := circle_of_parents(self.class_parents):
            line, names = cells[circle[0]][0], " → ".join(map(repr, circle))
            self.problems.append(
                f"{self.table_name}, line {line}: parents go in a circle: {names}; leave one of them empty"
            )

    def fill_unknown(self, seen_class_names: Container[str] = ()):
        """
        Gives unknown strengths the mean of the attribute over seen classes, or over all where it is known of no seen
        class.

        Args:
            seen_class_names (`Container[str]`, *optional*):
                The seen classes. By default nobody knows, and the mean is over all classes.
        """
        if self.class_attributes is None:
            return
        values, unknown = self.class_attributes, np.isnan(self.class_attributes)
        seen = np.array([name in seen_class_names for name in self.class_names])[:, None]
        of_seen, of_all = [], []
        described = np.array([name in self.prose for name in self.class_names], dtype=bool)[:, None]
        unknown = unknown & ~described
        for column in np.flatnonzero(unknown.any(0)):
            known = ~np.isnan(values[:, column])
            if not known.any():
                continue
            chosen, examples = known & seen[:, 0], of_seen
            if not chosen.any():
                chosen, examples = known, of_all
            values[unknown[:, column], column] = values[chosen, column].mean(dtype=np.float64)
            examples += [
                f"{self.attribute_names[column]!r} of {self.class_names[row]}"
                for row in np.flatnonzero(unknown[:, column])
            ]
        for examples, classes in ((of_seen, "the seen classes'"), (of_all, "all classes'")):
            if examples:
                cells = f"{len(examples)} unknown strengths take" if len(examples) > 1 else "1 unknown strength takes"
                self.note(f"{self.table_name}: {cells} {classes} mean of the attribute, such as {examples[0]}")

    def note(self, *lines: str):
        """Adds to what was understood, and to the notes."""
        self.understood += lines
        self.notes += lines

    def match_attributes(self, known: NameMatcher):
        """Attributes by the names that a model has for them."""
        self.attribute_names = known.find_all(self.attribute_names)
        self.note(*known.notes(self.table_name, "the model"))

    def descriptions(self) -> dict[str, dict]:
        """
        The classes as the pipeline's `candidate_labels`: class → attribute → strength from 0 to 1; of a class with
        prose, `text` and the `attributes` that are known.
        """
        described = {}
        for name, strengths in zip(self.class_names, self.class_attributes.tolist()):
            attributes = {
                attribute: strength
                for attribute, strength in zip(self.attribute_names, strengths)
                if not math.isnan(strength)
            }
            prose = {"text": self.prose[name], "attributes": attributes or None} if name in self.prose else None
            described[name] = prose or attributes
        return described

    def require_sound(self, source: str | os.PathLike, advice: str = ""):
        """Raises a ValueError that lists the problems of a source, if there are any."""
        if self.problems:
            text = "\n- ".join([f"{source} cannot be used:", *self.problems]) + advice
            raise ValueError(printable(text))


def load_class_table(file: str | os.PathLike, attribute_scale: str | float | None = None) -> ClassTable:
    """
    A table of classes of which nobody knows whether they are seen.

    Args:
        file (`str` or `os.PathLike`):
            See [`ClassTable.read_classes`].
        attribute_scale (`str` or `float`, *optional*):
            As there.

    Returns:
        [`ClassTable`]: without unknown strengths.

    Raises:
        ValueError: If anything is wrong with the table, all of which is listed, or there is no such `attribute_scale`.
    """
    table = ClassTable()
    table.read_classes(file, attribute_scale=attribute_scale, with_prose=True)
    table.require_sound(file)
    table.fill_unknown()
    return table


def add_class(file: str | os.PathLike, name: str, strengths: Mapping[str, float]):
    """
    Adds a class to a table, or begins one. What is there stays as it is, to the byte.

    Args:
        file (`str` or `os.PathLike`):
            CSV file with the header `class,<attribute>,…`, in which attributes may be written in any usual way.
        name (`str`):
            The class.
        strengths (`Mapping[str, float]`):
            Attribute → strength from 0 to 1; those that are no column are left out, unless there is no file yet.

    Raises:
        ValueError: If it is no CSV file, anything is wrong with it, it has the class already, or a column is none of
            these attributes.
    """
    file = Path(file)
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise ValueError(f"{file} is no CSV file: name one, or save the table as .csv")
    if not normalize(name):
        raise ValueError(f"the name of a class cannot be {name!r}")
    content, delimiter, top = b"", "\t" if file.suffix.lower() == ".tsv" else ",", 1
    header = ["class", *strengths]
    if file.exists():
        table = load_class_table(file)
        if other := NameMatcher(table.class_names).find(name):
            raise ValueError(
                f"{file} has the class {other!r} already: take its row out, or give the new one another name"
            )
        content = file.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{file} is UTF-16: save it as UTF-8")
        rows, delimiter = _read_text(content, "class", {}, [])
        header = next(row for _, row in rows if any(row))
        if not _is(header[0], "class"):
            raise ValueError(f"{file} has another first column than 'class', {header[0]!r}: save it without")
        top = table.top
    known = NameMatcher(list(strengths))
    cells, strangers = [name], []
    for column in header[1:]:
        found = known.find(column)
        if found is None and column and column.casefold() not in RESERVED:
            strangers.append(column)
        if found is None:
            cells.append("")
        elif top is None:
            cells.append(f"{100 * strengths[found]:.0f}%")
        else:
            has_commas = delimiter != "," and re.search(rb"\d,\d", content)
            cells.append(f"{strengths[found] * top:.3g}".replace(".", "," if has_commas else "."))
    if strangers:
        raise ValueError(
            f"{file} has columns that are no attributes of the model: {', '.join(strangers[:5])}"
            f"{', …' if len(strangers) > 5 else ''}. Its names are in `config.attribute_names`"
        )
    end = "\r\n" if b"\r\n" in content else "\n"
    added = io.StringIO()
    writer = csv.writer(added, delimiter=delimiter, lineterminator=end)
    writer.writerows([cells] if content else [header, cells])
    start = end if content and not content.endswith(b"\n") else ""
    with replacing(file) as stream:
        stream.buffer.write(content)
        stream.buffer.write((start + added.getvalue()).encode())


def read_table(
    file: Path,
    kind: str,
    problems: list[str],
    columns: Sequence[str] = (),
    known: NameMatcher | None = None,
    notes: list[str] | None = None,
    synonyms: Mapping[str, str] | None = None,
) -> tuple[list[str], dict[str, tuple[int, list[str]]]]:
    """
    Reads a CSV file with a row for each thing of a kind, of which the first column is the name. All is normalised.

    Commas, semicolons or tabs are between values. Lines that begin with `#`, a first line `sep=;` and a first column
    without a name that numbers the rows, as pandas writes it, are left out.

    Args:
        file (`Path`):
            The file.
        kind (`str`):
            What it names, and so the first column: `"class"` or `"attribute"`.
        problems (`list[str]`):
            Where to add what is wrong, one line each.
        columns (`Sequence[str]`, *optional*):
            The other columns that there may be; without any, there may be all.
        known ([`NameMatcher`], *optional*):
            The names in `classes.csv`, which those of the table become; without any, all may be named.
        notes (`list[str]`, *optional*):
            Where to add what was left out, and what is between values if not commas.
        synonyms (`Mapping[str, str]`, *optional*):
            Other names of columns, in small letters → the names that they are taken as. With them columns may have any
            order.

    Returns:
        `tuple[list[str], dict[str, tuple[int, list[str]]]]`: the header, and name → line and cells of the sound rows.
        Empty if the file cannot be read or the header is wrong.
    """
    delimiter, comments = ",", []
    try:
        if file.suffix.lower() in UNREAD_SUFFIXES:
            raise ValueError("is a spreadsheet of a kind that is not read: save it as .xlsx or CSV")
        if file.suffix.lower() in SUFFIXES:
            rows = [(number, [normalize(cell) for cell in row]) for number, row in read_sheet(file)]
        else:
            rows, delimiter = _read_text(file.read_bytes(), kind, synonyms or {}, comments)
        rows = [(number, row) for number, row in rows if any(row)]
        problem = None if rows else "is empty"
    except FileNotFoundError:
        problem = "is missing"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = f"is not UTF-8, first in line {line}: save it with that encoding"
    except csv.Error as error:
        problem = f"is no CSV file: {error}"
    except ValueError as error:
        problem = str(error)
    if problem:
        problems.append(f"{file.name} {problem}")
        return [], {}
    (first, header), *rows = rows
    said = [] if notes is None else notes
    if synonyms:
        header, rows = _read_columns(file, header, rows, kind, synonyms, said)
    if delimiter != ",":
        said.append(f"{file.name}: {DELIMITERS[delimiter]} between values")
    if comments:
        said.append(f"{file.name}: left out lines that begin with #: {len(comments)}, the first is line {comments[0]}")
    # Spreadsheet programs may end each line with empty cells.
    while len(header) > 1 and not header[-1] and not any(any(row[len(header) - 1 :]) for _, row in rows):
        header.pop()
    width = len(header)
    rows = [(number, row if any(row[width:]) else row[:width]) for number, row in rows]
    first_cells = [row[0] for _, row in rows]
    if _is_index(header[0]) and all(map(str.isdecimal, first_cells)) and header[1:] and _is(header[1], kind):
        said.append(f"{file.name}: left out the first column, which numbers the rows")
        header, rows = header[1:], [(number, row[1:]) for number, row in rows]
    elif _is_index(header[0]) and len(header) > 1 and not any(map(str.isdecimal, first_cells)):
        said.append(f"{file.name}: the first column, which has no name, taken as {kind!r}")
        header = [kind, *header[1:]]
    header = [kind if _is(header[0], kind) else header[0], *header[1:]]
    if columns:
        header = [name.casefold() for name in header]
    if header[0] != kind or (columns and (set(header[1:]) - set(columns) or len(set(header)) < len(header))):
        must = f"be {','.join([kind, *columns])}" if columns else f"begin with {kind!r}"
        problems.append(
            f"{file.name}, line {first}: the header must {must}, but is {delimiter.join(header)!r}; values must have "
            "commas, semicolons or tabs between them"
            + (f". {transpose(file)}" if kind == "class" and header[0].casefold().startswith("attribute") else "")
        )
        return [], {}
    table = {}
    for number, row in rows:
        name, problem = row[0] if row else "", None
        found = known.find(name) if known and name else name
        if len(row) != len(header):
            problem = f"{len(row)} values where the header has {len(header)}"
            if len(row) > len(header) and delimiter == ",":
                problem += "; a value with a comma in it needs quotes"
        elif not name:
            problem = f"the {kind} has no name"
        elif found is None:
            problem = f"classes.csv has no {kind} {name!r}{known.closest(name)}"
        elif found in table:
            problem = f"{kind} {found!r} is " + ("there twice" if columns else f"in line {table[found][0]} already")
        else:
            table[found] = number, [found, *row[1:]]
        if problem:
            problems.append(f"{file.name}, line {number}: {problem}")
    return header, table


def _read_text(
    content: bytes, kind: str, synonyms: Mapping[str, str], comments: list[int]
) -> tuple[list[tuple[int, list[str]]], str]:
    """Lines and cells of a CSV file, and what is between the cells; adds the numbers of comment lines."""
    # Spreadsheet programs begin UTF-8 with a mark, too.
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    lines = list(_blank_comments(content.decode("utf-16" if marked else "utf-8-sig"), comments))
    delimiter = _sniff_delimiter(lines, kind, synonyms)
    reader = csv.reader(lines, delimiter=delimiter)
    return [(reader.line_num, [normalize(cell) for cell in row]) for row in reader], delimiter


def transpose(file: Path) -> str:
    """What to do about a table that has the classes as columns."""
    name, options = json.dumps(str(file)), "index_col=0, dtype=str, keep_default_na=False"
    if file.suffix.lower() == ".parquet":
        read = f'pandas.read_parquet({name}); t = t.set_index(t.columns[0]) if t.index.dtype.kind in "iu" else t'
    elif file.suffix.lower() == ".xlsx":
        read = f"pandas.read_excel({name}, {options})"
    else:
        header = file.read_bytes().split(b"\n")[0]
        delimiter = max(DELIMITERS, key=lambda delimiter: header.count(delimiter.encode()))
        read = f"pandas.read_csv({name}, sep={json.dumps(delimiter)}, {options})"
    new = json.dumps(str(file.with_suffix(".new.csv")))
    code = f'import pandas; t = {read}; t.T.rename_axis("class").to_csv({new})'
    return (
        "It has the classes as columns: exchange rows and columns, and put the new table in its place: "
        f"python -c {shlex.quote(code)}"
    )


def _blank_comments(text: str, comments: list[int]) -> Iterator[str]:
    """The lines of a table, of which those that hold nothing of it are empty; adds their numbers to the comments."""
    quoted = False
    for number, line in enumerate(io.StringIO(text, newline=""), start=1):
        if not quoted and line.startswith("#"):
            comments.append(number)
            yield "\n"
        elif number == 1 and re.fullmatch(r'"?sep=.?"?[;,\t]*\s*', line, re.IGNORECASE):
            yield "\n"
        else:
            quoted ^= line.count('"') % 2 == 1
            yield line


def _read_columns(
    file: Path,
    header: list[str],
    rows: list[tuple[int, list[str]]],
    kind: str,
    synonyms: Mapping[str, str],
    notes: list[str],
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and rows with columns by the names that they are taken as, that of the kind first."""
    names = [name.casefold() for name in header]
    taken = [synonyms[name] if name in synonyms and synonyms[name] not in names else name for name in names]
    for name, other in zip(header, taken):
        if name.casefold() != other:
            notes.append(f"{file.name}: the column {name!r} taken as {other!r}")
    if kind not in taken:
        return header, rows
    first = taken.index(kind)
    return [kind, *taken[:first], *taken[first + 1 :]], [
        (number, [row[first], *row[:first], *row[first + 1 :]] if len(row) > first else row) for number, row in rows
    ]


def _sniff_delimiter(lines: Sequence[str], kind: str, synonyms: Mapping[str, str]) -> str:
    """What is between the values of a header: of all candidates it makes most cells, one of the first two the kind."""
    header = [line for line in lines if line.strip(" \r\n")][:1]
    best, most = ",", 1
    for delimiter in DELIMITERS:
        cells = [normalize(cell) for cell in next(csv.reader(header, delimiter=delimiter), [])]
        named = cells[:2] if not synonyms else [synonyms.get(cell.casefold(), cell) for cell in cells]
        if len(cells) > most and (any(_is(cell, kind) for cell in named) or _is_index(cells[0])):
            best, most = delimiter, len(cells)
    return best


def _is(cell: str, kind: str) -> bool:
    return cell.casefold() == kind


def _is_index(cell: str) -> bool:
    return cell.casefold() in ("", "unnamed: 0")


def find_table(folder: Path, name: str, problems: list[str], notes: list[str]) -> Path:
    """
    The file of a folder that has a name such as `classes.csv`, also in other case and as another kind of table, where
    there is only one; `name` itself if there is none.
    """
    stem, suffix = os.path.splitext(name)
    names = {stem + other for other in (suffix, ".tsv", *SUFFIXES, *UNREAD_SUFFIXES)}
    found = sorted(file.name for file in folder.iterdir() if file.name.casefold() in names)
    if len(found) > 1:
        problems.append(f"{' and '.join(found)} may both be {name}: keep one")
    elif found and found[0] != name:
        notes.append(f"{found[0]} taken as {name}")
    return folder / (name if name in found or not found else found[0])
