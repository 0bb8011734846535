"""A file with a row for each image, CSV or JSON lines, that is written as answers come and can be gone on with."""

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

DIGITS = 6


class PredictionFile:
    """
    Rows `image,label,score,seen,error`, then `label_2,score_2,seen_2` and so on for more labels, `rank,rank_score` if
    classes have parents, then attributes: a column for each, or `attribute,attribute_score,attribute_2,…` for those of
    the highest score. What there is not (the error of an image that was read, the label of one that was not, a rank
    where none is sure) is empty, in JSON `null`.

    `done` is a `Counter` of the images that had a row when the file was opened, and `failed` how many of these rows
    have an error.

    Args:
        path (`str` or `os.PathLike`):
            A file that ends in `.csv` or `.jsonl`.
        top_k (`int`):
            Labels a row.
        attributes (`int` or `list[str]`):
            How many attributes a row has, or the names of those that have a column each.
        resume_labels (`Collection[str]`, *optional*):
            The candidates of a run that may go on with a file. Half a row at its end is cut off.
        with_ranks (`bool`, *optional*, defaults to `False`):
            Whether answers have `ranks`.

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
        with_ranks: bool = False,
    ):
        self.path, self.is_csv = Path(path), Path(path).suffix == ".csv"
        self.ranks = _ranks(top_k)
        self.attribute_ranks = _ranks(attributes) if isinstance(attributes, int) else []
        labels = [f"{column}{rank}" for rank in self.ranks for column in ("label", "score", "seen")]
        self.columns = ["image", *labels[:3], "error", *labels[3:]]
        self.columns += ["rank", "rank_score"] if with_ranks else []
        self.columns += [
            f"{column}{rank}" for rank in self.attribute_ranks for column in ("attribute", "attribute_score")
        ]
        if not isinstance(attributes, int):
            taken = sorted(set(attributes) & set(self.columns))
            if taken:
                raise ValueError(f"the model has an attribute {taken[0]!r}, but {path} has such a column already")
            self.columns += attributes
        header = self._line(dict(zip(self.columns, self.columns))) if self.is_csv else ""
        self.done, self.failed, end = Counter(), 0, 0
        if resume_labels is not None and self.path.exists():
            end = self._read(resume_labels, start=header or '{"image": ')
            os.truncate(self.path, end)
        # A file name need not be text: its odd bytes stay as they are, or become \udc80 to \udcff, which JSON knows.
        errors = "surrogateescape" if self.is_csv else "backslashreplace"
        mode = "x" if resume_labels is None else "a"
        self.file = open(self.path, mode, encoding="utf-8", errors=errors, newline="")  # noqa: SIM115
        if not end:
            self._write([header])

    @staticmethod
    def check(path: str | os.PathLike, resume: bool):
        """Raises a ValueError if this file cannot be written, before anything else is done."""
        path = Path(path)
        if path.suffix not in (".csv", ".jsonl"):
            raise ValueError(f"{path} must end in .csv or .jsonl")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} to write {path.name} in")
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} is {'a folder' if path.is_dir() else 'no ordinary file'}: name a file")
        if path.exists() and not resume:
            raise ValueError(f"{path} exists: go on with it by --resume, or name another file")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise ValueError(f"{path} cannot be written: permission denied")

    def write(self, answers: Sequence[tuple[str, dict | str]]):
        """
        Adds rows; they are in the file when this returns.

        Args:
            answers (`Sequence[tuple[str, dict | str]]`):
                Path of an image, and what the pipeline says of it or why it cannot be read.
        """
        self._write([self._line(self._row(image, answer)) for image, answer in answers])

    def _write(self, lines: Sequence[str]):
        try:
            self.file.writelines(lines)
            self.file.flush()
        except OSError as error:
            # What it did not get rid of, it would try again when it is closed.
            with contextlib.suppress(OSError):
                self.file.close()
            raise OSError(
                f"{self.path} cannot be written: {error.strerror}. Make room, and go on with it by --resume"
            ) from error

    def _row(self, image: str, answer: dict | str) -> dict:
        row = dict.fromkeys(self.columns) | {"image": image}
        if isinstance(answer, str):
            return row | {"error": answer}
        for rank, label in zip(self.ranks, answer["labels"]):
            row |= {f"label{rank}": label["label"], f"score{rank}": label["score"], f"seen{rank}": label["seen"]}
        for rank in answer.get("ranks", [])[:1]:
            row |= {"rank": rank["label"], "rank_score": rank["score"]}
        if self.attribute_ranks:
            for rank, attribute in zip(self.attribute_ranks, answer["attributes"]):
                row |= {f"attribute{rank}": attribute["label"], f"attribute_score{rank}": attribute["score"]}
        else:
            row |= {attribute["label"]: attribute["score"] for attribute in answer["attributes"]}
        return {column: round(cell, DIGITS) if isinstance(cell, float) else cell for column, cell in row.items()}

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
        with open(self.path, "rb") as file:
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
                self.done[row["image"]] += 1
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
        except (ValueError, TypeError, csv.Error):
            raise ValueError(f"row {number} of {self.path} is no prediction: name another file") from None
        if list(row) != self.columns:
            lacks = [f"lacks {column!r}" for column in self.columns if column not in row]
            has = [f"has {column!r}" for column in row if column not in self.columns]
            raise ValueError(
                f"{self.path} has other columns than this run ({', '.join(lacks[:1] + has[:1]) or 'or their order'}): "
                "go on with the --top_k and --attributes that it was begun with, or name another file"
            )
        return row


def _ranks(number: int) -> list[str]:
    """Ends of the columns of each rank: the first has none."""
    return ["", *(f"_{rank}" for rank in range(2, number + 1))][:number]
