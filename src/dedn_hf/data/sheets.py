"""Tables in spreadsheets and Parquet files, as rows of text like those of a CSV file."""

import datetime
import math
from collections.abc import Sequence
from pathlib import Path

SUFFIXES = (".xlsx", ".parquet")
UNREAD_SUFFIXES = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")


def read_sheet(file: Path) -> list[tuple[int, list[str]]]:
    """
    The rows of a table, header first, with their numbers from 1 on.

    Args:
        file (`Path`):
            A file that ends in one of `SUFFIXES`. Of several sheets in it, the one named as the file is read.

    Raises:
        ValueError: If it cannot be read without a doubt; says why, as the end of a sentence on the file.
        OSError: If it cannot be opened.
    """
    with open(file, "rb"):  # says what is wrong in the system's words
        pass
    rows = _read_excel(file) if file.suffix.lower() == ".xlsx" else _read_parquet(file)
    return list(enumerate(([_to_text(cell) for cell in row] for row in rows), start=1))


def _read_excel(file: Path) -> list[list]:
    try:
        import openpyxl
    except ImportError:
        raise ValueError("needs openpyxl to be read: pip install 'dedn-hf[excel]', or save the table as CSV") from None
    try:
        # Once with what formulas gave when the file was saved, and once with the formulas.
        values, formulas = (openpyxl.load_workbook(file, data_only=data_only) for data_only in (True, False))
    except Exception as error:  # of many kinds, from the archive to what is in it
        raise ValueError(f"is no spreadsheet that can be read: {error}; save it anew, or as CSV") from error
    sheets = [sheet for sheet in formulas.worksheets if any(set(row) - {None} for row in sheet.values)]
    named = [sheet for sheet in sheets if sheet.title.casefold() == file.stem.casefold()]
    if len(named or sheets) > 1:
        raise ValueError(
            f"has {len(sheets)} sheets, {', '.join(repr(sheet.title) for sheet in sheets[:3])}: name the right one "
            f"{file.stem!r}, or keep it alone"
        )
    if not sheets:
        return []
    (of_formulas,) = named or sheets
    sheet = values[of_formulas.title]
    if sheet.merged_cells.ranges:
        raise ValueError(f"has merged cells, {sorted(map(str, sheet.merged_cells.ranges))[0]}: unmerge and fill them")
    rows = []
    for cells, sources in zip(sheet.iter_rows(), of_formulas.iter_rows()):
        for cell, source in zip(cells, sources):
            if cell.value is None and source.value is not None:
                raise ValueError(
                    f"has a formula without a value in {cell.coordinate}: open it in a spreadsheet program and save "
                    "it, or write the value"
                )
        rows.append([_in_per_cent(cell) for cell in cells])
    return rows


def _in_per_cent(cell):
    """The value of a cell as it is shown: 0.5 of a cell in per cent is 50%."""
    shown_so = "%" in (cell.number_format or "") and isinstance(cell.value, (int, float))
    return f"{100 * cell.value:.15g}%" if shown_so and not isinstance(cell.value, bool) else cell.value


def _read_parquet(file: Path) -> list[Sequence]:
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file).read().to_pandas()
    except Exception as error:  # Arrow's kinds, and those of what it calls
        raise ValueError(f"is no Parquet file that can be read: {error}; save it anew, or as CSV") from error
    if table.index.name is not None or table.index.dtype.kind not in "iu":
        # What pandas calls the rows comes first, as it does in CSV.
        table = table.reset_index(names=table.index.name or "")
    return [list(table.columns), *table.astype(object).values.tolist()]


def _to_text(cell) -> str:
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float):
        return "" if math.isnan(cell) else f"{cell:.15g}"
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        cell = cell.date()
    return str(cell)
