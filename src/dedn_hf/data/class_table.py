"""The table of classes, `class,<attribute>,…`: how strongly each class has each attribute, 0 to 1 or 0 to 100."""

import csv
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


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
            Strengths as fractions; `None` if there are problems, or nobody asked.
        understood (`list[str]`):
            What was found, one line each.
        problems (`list[str]`):
            What is wrong with it, one line each. With any, the rest may be incomplete.
    """

    class_names: list[str] = field(default_factory=list)
    attribute_names: list[str] = field(default_factory=list)
    class_attributes: np.ndarray | None = None
    understood: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def read_classes(self, file: str | os.PathLike, names_only: bool = False):
        """
        Reads a table of classes, and notes all that is wrong with it instead of stopping at it.

        Args:
            file (`str` or `os.PathLike`):
                CSV file with the header `class,<attribute>,…`; strengths 0 to 1, or 0 to 100 where any is above 1.
            names_only (`bool`, *optional*, defaults to `False`):
                Whether to look at the first column alone.
        """
        file, wrong = Path(file), self.problems.append
        header, rows = read_table(file, "class", self.problems)
        self.class_names = list(rows)
        if not rows and not self.problems:
            wrong(f"{file.name}: it has no classes")
        if not rows or names_only:
            return
        self.attribute_names = header[1:]
        if not self.attribute_names:
            wrong(f"{file.name}, line 1: there are no attributes after 'class'")
            return
        for place, name in enumerate(self.attribute_names):
            if not name:
                wrong(f"{file.name}, line 1: attribute {place + 1} has no name")
            elif name in self.attribute_names[:place]:
                wrong(f"{file.name}, line 1: attribute {name!r} is there twice")
        strengths = {name: [_number(cell) for cell in cells[1:]] for name, (_, cells) in rows.items()}
        for name, (number, cells) in rows.items():
            outside = [place for place, value in enumerate(strengths[name], start=1) if not 0 <= value <= 100]
            if outside:
                more = f", and {len(outside) - 1} more are wrong" if len(outside) > 1 else ""
                wrong(
                    f"{file.name}, line {number} ({name}): strengths must be from 0 to 1 or from 0 to 100, but "
                    f"{header[outside[0]]!r} is {cells[outside[0]]!r}{more}"
                )
            elif not any(strengths[name]):
                wrong(f"{file.name}, line {number} ({name}): the class has no attribute above 0")
        if self.problems:
            return
        matrix = np.array(list(strengths.values()))
        unit, scale = ("per cent", 100) if matrix.max() > 1 else ("fractions", 1)
        self.class_attributes = (matrix / scale).astype(np.float32)
        self.understood.append(
            f"{file.name}: {len(matrix)} classes, {len(self.attribute_names)} attributes, strengths up to "
            f"{matrix.max():g} taken as {unit}"
        )

    def require_sound(self, source: str | os.PathLike, advice: str = ""):
        """Raises a ValueError that lists the problems of a source, if there are any."""
        if self.problems:
            raise ValueError("\n- ".join([f"{source} cannot be used:", *self.problems]) + advice)


def load_class_descriptions(file: str | os.PathLike) -> dict[str, dict[str, float]]:
    """
    The classes of a table as the pipeline's `candidate_labels`.

    Args:
        file (`str` or `os.PathLike`):
            See [`ClassTable.read_classes`].

    Returns:
        `dict[str, dict[str, float]]`: class → attribute → strength from 0 to 1.

    Raises:
        ValueError: If anything is wrong with the table, all of which is listed.
    """
    table = ClassTable()
    table.read_classes(file)
    table.require_sound(file)
    rows = zip(table.class_names, table.class_attributes.tolist())
    return {name: dict(zip(table.attribute_names, strengths)) for name, strengths in rows}


def read_table(
    file: Path, kind: str, problems: list[str], columns: Sequence[str] = (), known: Sequence[str] = ()
) -> tuple[list[str], dict[str, tuple[int, list[str]]]]:
    """
    Reads a CSV file with a row for each thing of a kind, of which the first column is the name. All is normalised.

    Args:
        file (`Path`):
            The file.
        kind (`str`):
            What it names, and so the first column: `"class"` or `"attribute"`.
        problems (`list[str]`):
            Where to add what is wrong, one line each.
        columns (`Sequence[str]`, *optional*):
            The other columns that there may be; without any, there may be all.
        known (`Sequence[str]`, *optional*):
            The names in `classes.csv`; without any, all may be named.

    Returns:
        `tuple[list[str], dict[str, tuple[int, list[str]]]]`: the header, and name → line and cells of the sound rows.
        Empty if the file cannot be read or the header is wrong.
    """
    try:
        # Spreadsheet programs begin UTF-8 with a mark.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            rows = [(reader.line_num, [normalize(cell) for cell in row]) for row in reader]
        rows = [(number, row) for number, row in rows if any(row)]
        problem = None if rows else "is empty"
    except FileNotFoundError:
        problem = "is missing"
    except UnicodeDecodeError:
        problem = "is not UTF-8: save it with that encoding"
    except csv.Error as error:
        problem = f"is no CSV file: {error}"
    if problem:
        problems.append(f"{file.name} {problem}")
        return [], {}
    (_, header), *rows = rows
    if header[0] != kind or (columns and (set(header[1:]) - set(columns) or len(set(header)) < len(header))):
        must = f"be {','.join([kind, *columns])}" if columns else f"begin with {kind!r}"
        problems.append(
            f"{file.name}, line 1: the header must {must}, but is {','.join(header)!r}; values must have commas "
            "between them"
        )
        return [], {}
    table = {}
    for number, row in rows:
        name, problem = row[0], None
        if len(row) != len(header):
            problem = f"{len(row)} values where the header has {len(header)}"
        elif not name:
            problem = f"the {kind} has no name"
        elif name in table:
            problem = f"{kind} {name!r} is " + ("there twice" if columns else f"in line {table[name][0]} already")
        elif known and name not in known:
            problem = f"classes.csv has no {kind} {name!r}"
        else:
            table[name] = number, row
        if problem:
            problems.append(f"{file.name}, line {number}: {problem}")
    return header, table


def normalize(text: str) -> str:
    """Text without space around it, in Unicode's normal form C: some systems store `é` as two characters."""
    return unicodedata.normalize("NFC", text).strip()


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
