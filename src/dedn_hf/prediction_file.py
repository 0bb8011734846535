"""
A file with a row for each image that is written as answers come and can be gone on with: CSV, JSON lines, or what is
made of these at the end, see [`prediction_formats`].
"""

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from .files import printable
from .prediction_formats import parquet_columns, read_parquet, write_fiftyone, write_label_studio, write_parquet

DIGITS = 6
# For other programs. The rest have the ending of the file.
FORMATS = ("fiftyone", "label-studio")
ENDINGS = (".csv", ".jsonl", ".parquet")


class PredictionFile:
    """
    Rows `image,label,score,seen,error`, then `label_2,score_2,seen_2` and so on for more labels, `fit` if it is asked
    for, `rank,rank_score` if classes have parents, then attributes: a column for each, or
    `attribute,attribute_score,attribute_2,…` for those of the highest score. What there is not (the error of an image
    that was read, the label of one that was not, a rank where none is sure) is empty, in JSON and Parquet `null`.

    CSV and JSON lines grow row by row. For the others rows gather in a file of JSON lines beside them,
    `OUT.unfinished.jsonl`, until [`~PredictionFile.finish`] makes them of it.

    `done` is a `Counter` of the images that had a row when the file was opened, by what [`printable`] makes of their
    paths, and `failed` how many of these rows have an error.

    Args:
        path (`str` or `os.PathLike`):
            A file that ends in `.csv`, `.jsonl` or `.parquet`, or in `.json` with a `format`.
        top_k (`int`):
            Labels a row.
        attributes (`int` or `list[str]`):
            How many attributes a row has, or the names of those that have a column each.
        resume_labels (`Collection[str]`, *optional*):
            The candidates of a run that may go on with a file. Half a row at its end is cut off.
        format (`str`, *optional*, defaults to that of the ending):
            `"fiftyone"` or `"label-studio"`.
        model_version (`str`, *optional*):
            The name of the model, for Label Studio.
        with_ranks (`bool`, *optional*, defaults to `False`):
            Whether answers have `ranks`.
        with_fit (`bool`, *optional*, defaults to `False`):
            Whether there is a column for their `fit`.

    Raises:
        FileExistsError: If there is such a file and it is not to be gone on with.
        ValueError: If an attribute has the name of another column, or the file to go on with has other columns or
            labels, or is no such file at all. It is left as it is.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        top_k: int,
        attributes: int | Sequence[str],
        resume_labels: Collection[str] | None = None,
        format: str | None = None,
        model_version: str | None = None,
        with_ranks: bool = False,
        with_fit: bool = False,
    ):
        self.path, self.format, self.model_version = Path(path), format or Path(path).suffix[1:], model_version
        self.rows_path, self.is_csv = _rows_path(path, format), self.format == "csv"
        self.ranks = _ranks(top_k)
        self.attribute_ranks = _ranks(attributes) if isinstance(attributes, int) else []
        self.attribute_names = [] if isinstance(attributes, int) else list(attributes)
        # Column → what is in it.
        first, *further = ({f"label{rank}": str, f"score{rank}": float, f"seen{rank}": bool} for rank in self.ranks)
        self.columns = {"image": str, **first, "error": str}
        for columns in further:
            self.columns |= columns
        self.columns |= {"fit": float} if with_fit else {}
        self.columns |= {"rank": str, "rank_score": float} if with_ranks else {}
        for rank in self.attribute_ranks:
            self.columns |= {f"attribute{rank}": str, f"attribute_score{rank}": float}
        taken = sorted({*self.attribute_names} & {*self.columns})
        if taken:
            raise ValueError(
                f"the model has an attribute {taken[0]!r}, but {path} has such a column already: ask for a number of "
                "--attributes"
            )
        self.columns |= dict.fromkeys(self.attribute_names, float)
        header = self._line(dict(zip(self.columns, self.columns))) if self.is_csv else ""
        self.done, self.failed, end = Counter(), 0, 0
        unpacked = resume_labels is not None and not self.rows_path.exists() and self.path.exists()
        # Rows of a run that was killed may have come to those of the file.
        self.has_new_rows = not unpacked
        if unpacked:
            self._unpack()
        if resume_labels is not None and self.rows_path.exists():
            try:
                end = self._read(resume_labels, start=header or '{"image": ')
            except ValueError:
                if unpacked:
                    self.rows_path.unlink()
                raise
            os.truncate(self.rows_path, end)
        # A file name need not be text: its odd bytes stay as they are, or become \udc80 to \udcff, which JSON knows.
        errors = "surrogateescape" if self.is_csv else "backslashreplace"
        mode = "x" if resume_labels is None else "a"
        self.file = open(self.rows_path, mode, encoding="utf-8", errors=errors, newline="")  # noqa: SIM115
        if not end:
            self._write([header])

    @staticmethod
    def check(path: str | os.PathLike, resume: bool, format: str | None = None):
        """Raises a ValueError if this file cannot be written, before anything else is done."""
        path, rows = Path(path), _rows_path(path, format)
        endings = ENDINGS if format is None else (".json",)
        if path.suffix not in endings:
            *others, last = endings
            must = f"{', '.join(others)} or {last}" if others else last
            how = f", with --format {format}" if format else ", or in .json with a --format"
            raise ValueError(f"{path} must end in {must}{how}")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} to write {path.name} in")
        for file in (path, rows):
            if file.exists() and not file.is_file():
                raise ValueError(f"{file} is {'a folder' if file.is_dir() else 'no ordinary file'}: name a file")
        if path.exists() and format is not None and not rows.exists():
            raise ValueError(f"{path} exists, and is finished: name another file")
        for file in (path, rows):
            if file.exists() and not resume:
                raise ValueError(f"{file} exists: go on with it by --resume, or name another file")
        if not os.access(path if path == rows and path.exists() else path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be written: permission denied")

    def write(self, answers: Sequence[tuple[str, dict | str]]):
        """
        Adds rows; they are in the file when this returns.

        Args:
            answers (`Sequence[tuple[str, dict | str]]`):
                Path of an image, and what the pipeline says of it or why it cannot be read.
        """
        self._write([self._line(self._row(image, answer)) for image, answer in answers])
        self.has_new_rows = self.has_new_rows or bool(answers)

    def finish(self):
        """
        Closes the file once it has all rows. What is no CSV and no JSON lines is made of them: under a temporary name
        that is then moved, so that it is there whole or not at all, and what was there before until then.
        """
        self.file.close()
        if self.rows_path == self.path:
            return
        if self.has_new_rows:
            with self._whole(self.path) as temporary:
                self._convert(temporary)
        self.rows_path.unlink()

    def _convert(self, path: Path):
        rows = tqdm(self._rows(), desc=f"Writing {self.path.name}", unit="image", disable=None)
        if self.format == "parquet":
            write_parquet(path, rows, self.columns)
        elif self.format == "label-studio":
            write_label_studio(path, rows, self.model_version)
        else:
            write_fiftyone(path, rows, self.ranks, self.attribute_ranks, self.attribute_names)

    def _rows(self) -> Iterator[dict]:
        with open(self.rows_path, "rb") as file:
            yield from map(json.loads, file)

    def _unpack(self):
        """Makes rows of a finished Parquet file, for others to come after them."""
        self._check_columns(parquet_columns(self.path))
        with self._whole(self.rows_path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for row in read_parquet(self.path):
                file.write(self._line(_rounded(row)))

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[Path]:
        """Gives a temporary name, and moves what was written there."""
        temporary = path.with_name(path.name + ".tmp")
        try:
            yield temporary
            os.replace(temporary, path)
        except OSError as error:
            raise self._cannot_be_written(error) from error
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, lines: Sequence[str]):
        try:
            self.file.writelines(lines)
            self.file.flush()
        except OSError as error:
            # What it did not get rid of, it would try again when it is closed.
            with contextlib.suppress(OSError):
                self.file.close()
            raise self._cannot_be_written(error) from error

    def _cannot_be_written(self, error: OSError) -> OSError:
        return OSError(f"{self.path} cannot be written: {error.strerror}. Make room, and go on with it by --resume")

    def _row(self, image: str, answer: dict | str) -> dict:
        row = dict.fromkeys(self.columns) | {"image": image}
        if isinstance(answer, str):
            return row | {"error": answer}
        for rank, label in zip(self.ranks, answer["labels"]):
            row |= {f"label{rank}": label["label"], f"score{rank}": label["score"], f"seen{rank}": label["seen"]}
        if "fit" in self.columns:
            row["fit"] = answer["fit"]
        for rank in answer.get("ranks", [])[:1]:
            row |= {"rank": rank["label"], "rank_score": rank["score"]}
        if self.attribute_ranks:
            for rank, attribute in zip(self.attribute_ranks, answer["attributes"]):
                row |= {f"attribute{rank}": attribute["label"], f"attribute_score{rank}": attribute["score"]}
        else:
            row |= {attribute["label"]: attribute["score"] for attribute in answer["attributes"]}
        return _rounded(row)

    def _line(self, row: dict) -> str:
        if not self.is_csv:
            return json.dumps(row, ensure_ascii=False) + "\n"
        line = io.StringIO()
        cells = (json.dumps(cell) if isinstance(cell, bool) else cell for cell in row.values())
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()

    def _read(self, labels: Collection[str], start: str) -> int:
        """Takes down which images have a row, and says where the last whole row ends. A file of ours begins so."""
        number, end, content = 0, 0, b""
        with open(self.rows_path, "rb") as file:
            for line in file:
                content += line
                # Half a row ends the file. Within quotes a line may end that is no row.
                if not line.endswith(b"\n") or (self.is_csv and content.count(b'"') % 2):
                    continue
                number += 1
                row = self._parse(content, number)
                end, content = end + len(content), b""
                if self.is_csv and number == 1:
                    continue
                self.done[printable(row["image"])] += 1
                self.failed += bool(row["error"])
                for label in (row[f"label{rank}"] for rank in self.ranks):
                    if label and label not in labels:
                        raise ValueError(
                            f"{self.path} has the label {label!r}, which is no candidate now: go on with the --model "
                            "and --classes that it was begun with, or name another file"
                        )
        if not number and not start.encode().startswith(content[: len(start.encode())]):
            raise ValueError(f"{self.path} is no file of predictions: name another one")
        return end

    def _parse(self, content: bytes, number: int) -> dict:
        try:
            if self.is_csv:
                (cells,) = csv.reader([content.decode(errors="surrogateescape")])
                row = dict(zip(self.columns if number > 1 else cells, cells, strict=True))
            else:
                row = dict(json.loads(content))
                if not all(cell is None or isinstance(cell, (str, float, int)) for cell in row.values()):
                    raise ValueError
                if not isinstance(row.get("image", ""), str):
                    raise ValueError
        except (ValueError, TypeError, csv.Error):
            raise ValueError(f"row {number} of {self.rows_path} is no prediction: name another file") from None
        self._check_columns(list(row))
        return row

    def _check_columns(self, there: list[str]):
        if there != list(self.columns):
            lacks = [f"lacks {column!r}" for column in self.columns if column not in there]
            has = [f"has {column!r}" for column in there if column not in self.columns]
            raise ValueError(
                f"{self.path} has other columns than this run ({', '.join(lacks[:1] + has[:1]) or 'or their order'}): "
                "go on with the --top_k and --attributes that it was begun with, or name another file"
            )


def _ranks(number: int) -> list[str]:
    """Ends of the columns of each rank: the first has none."""
    return ["", *(f"_{rank}" for rank in range(2, number + 1))][:number]


def _rows_path(path: str | os.PathLike, format: str | None) -> Path:
    """Where rows are written as they come."""
    path = Path(path)
    grows = format is None and path.suffix in (".csv", ".jsonl")
    return path if grows else path.with_name(path.name + ".unfinished.jsonl")


def _rounded(row: dict) -> dict:
    return {column: round(cell, DIGITS) if isinstance(cell, float) else cell for column, cell in row.items()}
