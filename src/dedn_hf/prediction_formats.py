"""What rows of predictions become, where none can be added to a file: Parquet, JSON for FiftyOne and Label Studio."""

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from .files import printable

# Rows that are in memory together, and together in the file.
ROW_GROUP_SIZE = 4096


def write_parquet(path: str | os.PathLike, rows: Iterable[dict], columns: Mapping[str, type]):
    """
    Writes a Parquet file with a column each of strings, float32 or booleans. What is no UTF-8 in a string, as a file
    name may have it, becomes `\\xe9` and the like.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        rows (`Iterable[dict]`):
            Column → value, or `None` where there is none. They are read one group after the other.
        columns (`Mapping[str, type]`):
            Name of a column → `str`, `float` or `bool`.
    """
    import pyarrow as pa
    from pyarrow import parquet

    types = {str: pa.string(), float: pa.float32(), bool: pa.bool_()}
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    rows = ([_text(cell) for cell in row.values()] for row in rows)
    with open(path, "wb") as file, parquet.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(rows, ROW_GROUP_SIZE)):
            writer.write_table(pa.table(list(zip(*group)), schema=schema))


def read_parquet(path: str | os.PathLike) -> Iterator[dict]:
    """
    The rows of a file of [`write_parquet`].

    Raises:
        ValueError: If it is damaged.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROW_GROUP_SIZE):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged, or no Parquet: name another file") from error


def parquet_columns(path: str | os.PathLike) -> list[str]:
    """
    The names of the columns of a Parquet file.

    Raises:
        ValueError: If it is none.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.read_schema(path).names
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged, or no Parquet: name another file") from error


def check_fiftyone_names(attributes: Iterable[str]):
    """Raises a ValueError if FiftyOne, where they become fields of a label, takes no attributes of these names."""
    for name in attributes:
        if name in ("id", "label", "confidence", "logits", "tags", "seen") or re.search(r"^_|[$.]|^$", name):
            raise ValueError(f"FiftyOne takes no attribute that is named {name!r}: leave --attributes out")


def write_fiftyone(
    path: str | os.PathLike,
    rows: Iterable[dict],
    ranks: Sequence[str],
    attribute_ranks: Sequence[str],
    attribute_names: Sequence[str],
):
    """
    Writes labels as FiftyOne reads them for a `FiftyOneImageClassificationDataset`: absolute path of an image → label,
    confidence and attributes, among them `seen`; where rows have several labels, a list of these, the attributes of
    the image with the first. Images that could not be read are left out.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        rows (`Iterable[dict]`):
            As [`PredictionFile`] has them.
        ranks (`Sequence[str]`):
            Ends of the columns of each label.
        attribute_ranks (`Sequence[str]`):
            Those of the columns of each attribute.
        attribute_names (`Sequence[str]`):
            The attributes that have a column of their name.
    """

    def entry(row: dict) -> str:
        targets = []
        for rank in ranks:
            if row[f"label{rank}"] is not None:
                label = {"label": row[f"label{rank}"], "confidence": row[f"score{rank}"]}
                targets.append(label | {"attributes": {"seen": row[f"seen{rank}"]}})
        scores = {row[f"attribute{rank}"]: row[f"attribute_score{rank}"] for rank in attribute_ranks}
        scores |= {name: row[name] for name in attribute_names}
        targets[0]["attributes"] |= {name: score for name, score in scores.items() if score is not None}
        target = targets if len(ranks) > 1 else targets[0]
        return f"{json.dumps(os.path.abspath(row['image']))}: {json.dumps(target, ensure_ascii=False)}"

    _write_json(path, '{"labels": {', map(entry, _read_images(rows)), "}}")


def write_label_studio(path: str | os.PathLike, rows: Iterable[dict], model_version: str):
    """
    Writes tasks with pre-annotations as Label Studio imports them, for the interface of its template "Image
    Classification": choices named `choice` of an image named `image`. The first label is the prediction; what else a
    row has goes to the data of the task. Images are addressed as Label Studio serves local files, from the root of
    the file system on. Images that could not be read are left out.

    Args:
        path (`str` or `os.PathLike`):
            The file.
        rows (`Iterable[dict]`):
            As [`PredictionFile`] has them.
        model_version (`str`):
            The name of the model.
    """

    def entry(row: dict) -> str:
        image = Path(os.path.abspath(row["image"]))
        place = os.fsencode(image.relative_to(image.anchor).as_posix())
        choice = {"choices": [row["label"]]}
        prediction = {
            "model_version": model_version,
            "score": row["score"],
            "result": [{"from_name": "choice", "to_name": "image", "type": "choices", "value": choice}],
        }
        others = {name: cell for name, cell in row.items() if name not in ("image", "label", "score", "error")}
        task = {"data": {"image": f"/data/local-files/?d={quote(place)}"} | others, "predictions": [prediction]}
        return json.dumps(task, ensure_ascii=False)

    _write_json(path, "[", map(entry, _read_images(rows)), "]")


def _read_images(rows: Iterable[dict]) -> Iterable[dict]:
    return (row for row in rows if row["error"] is None)


def _write_json(path: str | os.PathLike, start: str, entries: Iterable[str], end: str):
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(start)
        for number, entry in enumerate(entries):
            file.write(f"{',' if number else ''}\n{entry}")
        file.write(f"\n{end}\n")


def _text(cell):
    return printable(cell) if isinstance(cell, str) else cell
