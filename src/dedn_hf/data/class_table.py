"""The table of classes, `class,<attribute>,…`: how strongly each class has each attribute, 0 to 1 or 0 to 100."""

import csv
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class ClassTable:
    """
    What [`read_class_table`] found.

    Args:
        class_names (`list[str]`):
            The K classes in the order of their rows.
        attribute_names (`list[str]`):
            The A attributes in the order of their columns.
        class_attributes (`np.ndarray` of shape `(K, A)`, float32, *optional*):
            Strengths as fractions; `None` if there are problems, or nobody asked.
        understood (`list[str]`):
            What the table holds, one line each.
        problems (`list[str]`):
            What is wrong with it, one line each. With any, the rest may be incomplete.
    """

    class_names: list[str] = field(default_factory=list)
    attribute_names: list[str] = field(default_factory=list)
    class_attributes: np.ndarray | None = None
    understood: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_class_table(file: str | os.PathLike, names_only: bool = False) -> ClassTable:
    """
    Reads a table of classes, and notes all that is wrong with it instead of stopping at it.

    Args:
        file (`str` or `os.PathLike`):
            CSV file with the header `class,<attribute>,…`; strengths 0 to 1, or 0 to 100 where any is above 1.
        names_only (`bool`, *optional*, defaults to `False`):
            Whether to look at the first column alone.

    Returns:
        `ClassTable`: its `problems` are empty if the table can be used.
    """
    file, table = Path(file), ClassTable()
    header, rows = read_csv(file, table.problems)
    table.class_names = _read_class_names(file.name, header, rows, table.problems)
    if table.class_names and not names_only:
        _read_strengths(file.name, header, rows, table)
    return table


def load_class_descriptions(file: str | os.PathLike) -> dict[str, dict[str, float]]:
    """
    The classes of a table as the pipeline's `candidate_labels`.

    Args:
        file (`str` or `os.PathLike`):
            See [`read_class_table`].

    Returns:
        `dict[str, dict[str, float]]`: class → attribute → strength from 0 to 1.

    Raises:
        ValueError: If anything is wrong with the table, all of which is listed.
    """
    table = read_class_table(file)
    if not table.class_names and not table.problems:
        table.problems.append("it has no classes")
    if table.problems:
        raise ValueError(f"{file} cannot be used:\n" + "\n".join(f"- {problem}" for problem in table.problems))
    return {
        name: dict(zip(table.attribute_names, strengths.tolist()))
        for name, strengths in zip(table.class_names, table.class_attributes)
    }


def read_csv(file: Path, problems: list[str]) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Header and, with their line numbers, rows as long as the header; all normalised."""
    name = file.name
    try:
        # Spreadsheet programs begin UTF-8 with a mark.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            rows = [(reader.line_num, [normalize(cell) for cell in row]) for row in reader]
    except FileNotFoundError:
        problems.append(f"{name} is missing")
        return [], []
    except UnicodeDecodeError:
        problems.append(f"{name} is not UTF-8: save it with that encoding")
        return [], []
    except csv.Error as error:
        problems.append(f"{name} is no CSV file: {error}")
        return [], []
    rows = [(number, row) for number, row in rows if any(row)]
    if not rows:
        problems.append(f"{name} is empty")
        return [], []
    (_, header), *rows = rows
    for number, row in rows:
        if len(row) != len(header):
            problems.append(f"{name}, line {number}: {len(row)} values where the header has {len(header)}")
    return header, [(number, row) for number, row in rows if len(row) == len(header)]


def normalize(text: str) -> str:
    """Text without space around it, in Unicode's normal form C: some systems store `é` as two characters."""
    return unicodedata.normalize("NFC", text).strip()


def _read_class_names(
    file_name: str, header: list[str], rows: list[tuple[int, list[str]]], problems: list[str]
) -> list[str]:
    if not header:
        return []
    if header[0] != "class":
        problems.append(
            f"{file_name}, line 1: the header must begin with 'class', but begins with {header[0]!r}; values must "
            "have commas between them"
        )
        return []
    first = {}
    for number, (name, *_) in rows:
        if not name:
            problems.append(f"{file_name}, line {number}: the class has no name")
        elif name in first:
            problems.append(f"{file_name}, line {number}: class {name!r} is in line {first[name]} already")
        else:
            first[name] = number
    return list(first)


def _read_strengths(file_name: str, header: list[str], rows: list[tuple[int, list[str]]], table: ClassTable):
    attributes, problems = header[1:], table.problems
    if not attributes:
        problems.append(f"{file_name}, line 1: there are no attributes after 'class'")
        return
    for place, name in enumerate(attributes):
        if not name:
            problems.append(f"{file_name}, line 1: attribute {place + 1} has no name")
        elif name in attributes[:place]:
            problems.append(f"{file_name}, line 1: attribute {name!r} is there twice")
    table.attribute_names = attributes
    matrix, seen = [], set()
    for number, (name, *cells) in rows:
        if not name or name in seen:
            continue
        seen.add(name)
        values = np.array([_number(cell) for cell in cells])
        wrong = [place for place, value in enumerate(values) if not 0 <= value <= 100]
        if wrong:
            problems.append(
                f"{file_name}, line {number} ({name}): strengths must be from 0 to 1 or from 0 to 100, but "
                f"{attributes[wrong[0]]!r} is {cells[wrong[0]]!r}"
                + (f", and {len(wrong) - 1} more are wrong" if wrong[1:] else "")
            )
        elif not values.any():
            problems.append(f"{file_name}, line {number} ({name}): the class has no attribute above 0")
        matrix.append(values)
    matrix = np.array(matrix)
    if problems:
        return
    percent = matrix.max() > 1
    table.class_attributes = (matrix / 100 if percent else matrix).astype(np.float32)
    table.understood.append(
        f"{file_name}: {len(matrix)} classes, {len(attributes)} attributes, strengths up to {matrix.max():g} taken as "
        + ("per cent" if percent else "fractions")
    )


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
