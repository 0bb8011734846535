"""What the cells of a table of classes say: strengths on a scale that is inferred for the whole table, or unknown."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

SCALES = {"unit": 1.0, "percent": 100.0}
# Below it a table is hardly in per cent: it may go up to 5 or 10, or be of fractions with a slip in it.
LEAST_PER_CENT = 20
UNKNOWN = {"", "?", "na", "n/a", "#n/a", "<na>", "nan", "null", "unknown"}
TICKS = {"x", "✓", "✔"}
# Also as spreadsheet programs write them in other languages.
YES = (
    "yes",
    "y",
    "true",
    "ja",
    "wahr",
    "oui",
    "vrai",
    "sí",
    "si",
    "sì",
    "sim",
    "verdadero",
    "verdadeiro",
    "vero",
    *TICKS,
)
NO = ("no", "n", "false", "nein", "falsch", "non", "faux", "não", "falso", "nee")
WORDS = dict.fromkeys(YES, 1) | dict.fromkeys(NO, 0)
NUMBER = re.compile(r"(?P<number>[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?)\s*(?P<sign>%)?")
WAY_OUT = "correct it, or say how strengths are meant with --attribute_scale unit, percent or the top of the scale"


@dataclass
class Strengths:
    """
    What the cells of a table of K classes and A attributes say.

    Args:
        values (`np.ndarray` of shape `(K, A)`, float64):
            Strengths as fractions; NaN where they are unknown.
        scale (`str`):
            What they were taken as.
        top (`float`, *optional*):
            The top of the scale of its numbers; `None` where words or per cent signs say it all.
        notes (`list[str]`):
            What was taken in a way that could have been meant otherwise, one line each.
        problems (`list[str]`):
            What is wrong, one line each. With any, the rest may be incomplete.
    """

    values: np.ndarray
    scale: str = ""
    top: float | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_scale(attribute_scale: str | float | None) -> float | None:
    """
    The top of a scale that starts at 0.

    Args:
        attribute_scale (`str` or `float`, *optional*):
            `"unit"`, `"percent"` or the top itself; `None` where it is to be inferred.

    Raises:
        ValueError: If it is none of these.
    """
    if attribute_scale is None:
        return None
    try:
        top = SCALES.get(attribute_scale) or float(attribute_scale)
    except (TypeError, ValueError):
        top = np.nan
    if not 0 < top < np.inf:
        raise ValueError(
            f"attribute_scale is {attribute_scale!r}; it must be unit (0 to 1), percent (0 to 100) or the top of the "
            "scale, such as 5."
        )
    return top


def read_strengths(
    cells: Sequence[Sequence[str]],
    attribute_names: Sequence[str],
    place: Callable[[int], str],
    top: float | None = None,
) -> Strengths:
    """
    Reads the cells of a table of classes.

    Args:
        cells (`Sequence[Sequence[str]]`):
            K rows of A cells.
        attribute_names (`Sequence[str]`):
            The A attributes.
        place (`Callable[[int], str]`):
            From the number of a row to where it stands, as problems name it.
        top (`float`, *optional*):
            Top of the scale, see [`read_scale`]. By default 1 or 100, whichever fits the table as a whole.

    Returns:
        [`Strengths`]
    """
    shape = len(cells), len(attribute_names)
    values = np.full(shape, np.nan)
    # Cells that are no numbers, words and per cent signs, which need no scale, and decimal commas and points.
    wrong, words, signs, commas, points = (np.zeros(shape, bool) for _ in range(5))
    found = Strengths(values)

    def name_cell(row: int, column: int) -> str:
        return f"{place(row)}: {attribute_names[column]!r} is {cells[row][column]!r}"

    ticked = _find_ticked(cells)
    for row, column in np.ndindex(shape):
        text = cells[row][column].replace("−", "-").casefold()
        number = NUMBER.fullmatch(text)
        if text in WORDS:
            values[row, column], words[row, column] = WORDS[text], True
        elif number:
            commas[row, column], points[row, column] = "," in text, "." in text
            signs[row, column] = number["sign"] is not None
            values[row, column] = float(number["number"].replace(",", ".")) / (100 if number["sign"] else 1)
        elif column in ticked and text == "":
            values[row, column], words[row, column] = 0, True
        elif text not in UNKNOWN:
            wrong[row, column] = True
    if ticked:
        found.notes.append(f"x taken as yes and an empty cell as no in {len(ticked)} columns that have nothing else")
    if commas.any() and points.any():
        # Of the rarer kind: it may be a slip, or mean thousands.
        odd = commas if commas.sum() <= points.sum() else points
        found.problems.append(
            f"{name_cell(*np.argwhere(odd)[0])}, and there are decimal commas as well as points: write all alike"
        )
    elif commas.any():
        found.notes.append("decimal commas")
    _read_negatives(found, wrong, name_cell)
    for row in np.flatnonzero(wrong.any(1)):
        first, count = np.argmax(wrong[row]), wrong[row].sum()
        more = f", and {count - 1} more are wrong" if count > 1 else ""
        if cells[row][first][:1] in ("-", "−") and NUMBER.fullmatch(cells[row][first].replace("−", "-").casefold()):
            more += "; if its numbers go below 0 in earnest, bring each column to 0 to 1: (x - min) / (max - min)"
        found.problems.append(
            f"{name_cell(row, first)}, but strengths must be numbers from 0 on, yes or no, or empty where "
            f"unknown{more}"
        )
    for row in np.flatnonzero(~(values > 0).any(1) & ~wrong.any(1)):
        found.problems.append(f"{place(row)}: the class has no attribute above 0")
    if not found.problems:
        _refuse_a_single_value(found, name_cell)
        _apply_scale(found, top, words, signs, name_cell)
    return found


def _find_ticked(cells: Sequence[Sequence[str]]) -> set[int]:
    """Columns in which some classes are ticked, and no other has anything."""
    columns = [{cell.casefold() for cell in column} for column in zip(*cells)]
    return {index for index, column in enumerate(columns) if "" in column and column - {""} and column <= {"", *TICKS}}


def _refuse_a_single_value(found: Strengths, name_cell: Callable[[int, int], str]):
    unknown = np.isnan(found.values)
    if unknown.any() and len(np.unique(found.values[~unknown])) == 1:
        found.problems.append(
            f"{name_cell(*np.argwhere(unknown)[0])}, which means unknown, and all other cells are the same: write 0 "
            "where a class does not have the attribute"
        )


def _read_negatives(found: Strengths, wrong: np.ndarray, name_cell: Callable[[int, int], str]):
    """-1 is unknown, unless it may be one of two values, or of a scale that goes below 0."""
    values = found.values
    negative = values < 0
    if not negative.any():
        return
    row, column = np.argwhere(negative)[0]
    others = np.unique(values[values >= 0])
    if (values[negative] != -1).any():
        wrong |= negative
    elif len(others) < 2:
        found.problems.append(
            f"{name_cell(row, column)}, and there is no third value to tell what it means: write 0 where a class does "
            "not have the attribute, and nothing where that is unknown"
        )
    else:
        found.notes.append(f"-1 taken as unknown, in {negative.sum()} cells")
    values[negative] = np.nan


def _apply_scale(
    found: Strengths,
    top: float | None,
    words: np.ndarray,
    signs: np.ndarray,
    name_cell: Callable[[int, int], str],
):
    """Makes fractions of all cells but those that are some already."""
    if (found.values[signs] > 1).any():
        found.problems.append(f"{name_cell(*np.argwhere(signs & (found.values > 1))[0])}, above 100 %")
        return
    shares = words | signs
    values = np.where(shares, np.nan, found.values)
    if not np.nansum(values):
        found.scale = f"up to {100 * np.nanmax(found.values):g} %, from words or per cent signs"
        return
    highest = np.nanmax(values)
    place = np.unravel_index(np.nanargmax(values), values.shape)
    if top is not None:
        if highest > top:
            found.problems.append(f"{name_cell(*place)}, above the {top:g} that attribute_scale says is the top")
        found.scale = f"up to {highest:g} on a scale from 0 to {top:g}, as attribute_scale says"
    elif signs.any():
        found.problems.append(
            f"{name_cell(*np.argwhere(values > 0)[0])}, but {name_cell(*np.argwhere(signs)[0])}, with a per cent "
            "sign: write all alike"
        )
    elif highest <= 1:
        top, found.scale = 1, f"up to {highest:g} taken as fractions"
    else:
        top, found.scale = 100, f"up to {highest:g} taken as per cent"
        problem = _against_per_cent(values, name_cell)
        if problem:
            found.problems.append(f"{problem}: {WAY_OUT}")
    found.values, found.top = np.where(shares, found.values, values / (top or 1)), top


def _against_per_cent(values: np.ndarray, name_cell: Callable[[int, int], str]) -> str | None:
    """Why a table with a strength above 1 cannot be taken as per cent; `None` if it can."""
    known = np.where(np.isnan(values), 0, values)
    place = np.unravel_index(known.argmax(), known.shape)
    if known.max() > 100:
        return f"{name_cell(*place)}, neither on a scale from 0 to 1 nor from 0 to 100"
    large, small = known.max(1) > 1, (known.max(1) > 0) & (known.max(1) <= 1)
    if small.sum() >= large.sum():
        row = np.argmax(large)
        return (
            f"{name_cell(row, np.argmax(known[row] > 1))}, but {small.sum()} of {len(small)} classes have no strength "
            "above 1"
        )
    if known.max() <= LEAST_PER_CENT:
        return f"{name_cell(*place)}, the highest strength: too high for fractions, and low for per cent"
    if small.any():
        row = np.argmax(small)
        return (
            f"{name_cell(row, known[row].argmax())}, the highest strength of the class, but {large.sum()} of "
            f"{len(small)} classes have strengths above 1"
        )
    highest = known.max(0)
    small = (highest > 0) & (highest <= 1)
    if small.any():
        column = np.argmax(small)
        return (
            f"{name_cell(known[:, column].argmax(), column)}, the highest strength of the attribute, but others go up "
            f"to {known.max():g}"
        )
    return None
