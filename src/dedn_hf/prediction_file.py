"""A file with a row for each image, CSV or JSON lines, that is written as answers come and can be gone on with."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

DIGITS = 6


class PredictionFile:
    """
    Rows `image,label,score,seen,error`, then `label_2,score_2,seen_2` and so on for more labels, then attributes: a
    column for each, or `attribute,attribute_score,attribute_2,…` for those of the highest score. What there is not
    (the error of an image that was read, the label of one that was not) is empty, in JSON `null`.

    Args:
        path (`str` or `os.PathLike`):
            A file that ends in `.csv` or `.jsonl`.
        top_k (`int`):
            Labels a row.
        attributes (`int` or `list[str]`):
            How many attributes a row has, or the names of those that have a column each.

    Raises:
        ValueError: If an attribute has the name of another column.
    """

    def __init__(self, path: str | os.PathLike, top_k: int, attributes: int | Sequence[str]):
        self.path, self.is_csv = Path(path), Path(path).suffix == ".csv"
        self.attributes = attributes
        self.label_columns = ["label", *(f"label_{rank}" for rank in range(2, top_k + 1))]
        self.columns = ["image", "label", "score", "seen", "error"]
        for rank in range(2, top_k + 1):
            self.columns += [f"label_{rank}", f"score_{rank}", f"seen_{rank}"]
        if isinstance(attributes, int):
            for rank in range(1, attributes + 1):
                self.columns += [f"attribute{_suffix(rank)}", f"attribute_score{_suffix(rank)}"]
        else:
            taken = sorted(set(attributes) & set(self.columns))
            if taken:
                raise ValueError(f"the model has an attribute {taken[0]!r}, but {self.path} has such a column already")
            self.columns += attributes
        self.file: BinaryIO | None = None

    @staticmethod
    def check(path: str | os.PathLike, resume: bool):
        """Raises a ValueError if this file cannot be written, before anything else is done."""
        path = Path(path)
        if path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"{path} must end in .csv or .jsonl")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} to write {path.name} in")
        if path.is_dir():
            raise ValueError(f"{path} is a folder: name a file")
        if path.exists() and not resume:
            raise ValueError(f"{path} exists: go on with it by --resume, or name another file")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be written: permission denied")

    def open(self):
        """Begins a new file."""
        self.file = open(self.path, "xb")  # noqa: SIM115
        self._begin()

    def reopen(self, labels: Collection[str]) -> tuple[Counter, int]:
        """
        Goes on with a file, or begins one where there is none. Half a row at its end is cut off.

        Args:
            labels (`Collection[str]`):
                The candidates of this run.

        Returns:
            `tuple[Counter, int]`: the images that have a row, with how many, and how many of the rows have an error.

        Raises:
            ValueError: If the file has other columns or labels, or is no such file at all. It is left as it is.
        """
        if not self.path.exists():
            self.open()
            return Counter(), 0
        images, failed, end = Counter(), 0, 0
        with open(self.path, "rb") as file:
            for number, raw in enumerate(self._whole_rows(file)):
                end += len(raw)
                row = self._parse(raw, number)
                if self.is_csv and number == 0:
                    continue
                images[row["image"]] += 1
                failed += bool(row["error"])
                for column in self.label_columns:
                    if row[column] and row[column] not in labels:
                        raise ValueError(
                            f"{self.path} has the label {row[column]!r}, which is no candidate now: go on with the "
                            "--model and --classes that it was begun with, or name another file"
                        )
            file.seek(0)
            start = self._header() or b'{"image": '
            if not end and not start.startswith(file.read(len(start))):
                raise ValueError(f"{self.path} is no file of predictions: name another one")
        self.file = open(self.path, "r+b")  # noqa: SIM115
        self.file.truncate(end)
        self.file.seek(end)
        if not end:
            self._begin()
        return images, failed

    def write(self, answers: Sequence[tuple[str, dict | str]]):
        """
        Adds rows; they are in the file when this returns.

        Args:
            answers (`Sequence[tuple[str, dict | str]]`):
                Path of an image, and what the pipeline says of it or why it cannot be read.
        """
        rows = [self._row(image, answer) for image, answer in answers]
        if self.is_csv:
            content = self._csv_lines([[_csv_cell(value) for value in row.values()] for row in rows])
        else:
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            # A file name need not be text; its odd bytes become \udc80 to \udcff, which JSON knows.
            content = "".join(lines).encode(errors="backslashreplace")
        self.file.write(content)
        self.file.flush()

    def __enter__(self) -> "PredictionFile":
        return self

    def __exit__(self, *_):
        self.file.close()

    def _begin(self):
        self.file.write(self._header())
        self.file.flush()

    def _header(self) -> bytes:
        return self._csv_lines([self.columns]) if self.is_csv else b""

    def _row(self, image: str, answer: dict | str) -> dict:
        row = dict.fromkeys(self.columns)
        row["image"] = image
        if isinstance(answer, str):
            row["error"] = answer
            return row
        for rank, label in enumerate(answer["labels"], start=1):
            row[f"label{_suffix(rank)}"] = label["label"]
            row[f"score{_suffix(rank)}"] = round(label["score"], DIGITS)
            row[f"seen{_suffix(rank)}"] = label["seen"]
        for rank, attribute in enumerate(answer["attributes"], start=1):
            score = round(attribute["score"], DIGITS)
            if isinstance(self.attributes, int):
                row[f"attribute{_suffix(rank)}"], row[f"attribute_score{_suffix(rank)}"] = attribute["label"], score
            else:
                row[attribute["label"]] = score
        return row

    def _csv_lines(self, rows: list[list[str]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue().encode(errors="surrogateescape")

    def _whole_rows(self, file: BinaryIO) -> Iterator[bytes]:
        row = b""
        for line in file:
            row += line
            # Within quotes a line may end that is no row.
            if row.endswith(b"\n") and not (self.is_csv and row.count(b'"') % 2):
                yield row
                row = b""

    def _parse(self, raw: bytes, number: int) -> dict:
        try:
            if not self.is_csv:
                row = dict(json.loads(raw))
            else:
                (cells,) = csv.reader(io.StringIO(raw.decode(errors="surrogateescape"), newline=""))
                row = dict(zip(self.columns, cells, strict=True)) if number else dict.fromkeys(cells)
        except (ValueError, TypeError, csv.Error):
            raise ValueError(f"row {number + 1} of {self.path} is no prediction: name another file") from None
        if list(row) != self.columns:
            lacks = [f"lacks {column!r}" for column in self.columns if column not in row]
            has = [f"has {column!r}" for column in row if column not in self.columns]
            raise ValueError(
                f"{self.path} has other columns than this run ({', '.join(lacks[:1] + has[:1]) or 'or their order'}): "
                "go on with the --top_k and --attributes that it was begun with, or name another file"
            )
        return row


def _suffix(rank: int) -> str:
    return "" if rank == 1 else f"_{rank}"


def _csv_cell(value) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
