import json
import os
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from dedn_hf import prediction_formats
from dedn_hf.prediction_file import PredictionFile

ATTRIBUTES = ["wing: blue", 'a "long" tail']
LABELS = {"jay", "=owl"}


def answer(score=0.75, top_k=2, num_attributes=2):
    return {
        "labels": [
            {"label": "jay", "score": score, "seen": True},
            {"label": "=owl", "score": 0.1234567, "seen": False},
        ][:top_k],
        "attributes": [
            {"label": name, "score": strength, "contribution": 0.5}
            for name, strength in zip(ATTRIBUTES, (1 / 3, score))
        ][:num_attributes],
    }


ROWS = [("a.jpg", answer()), ("b, ü\n.jpg", answer(0.5)), ("no.jpg", "it is no image"), ("\udcff.jpg", answer(0.25))]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, rows, finish=True, top_k=2, attributes=ATTRIBUTES, resume=False, **options):
    """Writes the rows that are not there yet, as `dedn predict` does; gives the file."""
    PredictionFile.check(path, resume, options.get("format"))
    file = PredictionFile(path, top_k, attributes, LABELS if resume else None, **options)
    for image, said in rows:
        name = image.replace("\udcff", "\\xff")
        if file.done[name]:
            file.done[name] -= 1
        else:
            file.write([(image, said)])
    if finish:
        file.finish()
    else:
        file.file.close()
    return file


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_parquet_has_the_columns_and_numbers_of_csv():
    write("birds.parquet", ROWS[:3])
    write("birds.csv", ROWS[:3])
    assert sorted(os.listdir()) == ["birds.csv", "birds.parquet"]
    table, of_csv = pd.read_parquet("birds.parquet"), pd.read_csv("birds.csv")
    first = ["image", "label", "score", "seen", "error", "label_2", "score_2", "seen_2"]
    assert list(table.columns) == list(of_csv.columns) == [*first, *ATTRIBUTES]
    scores = ["score", "score_2", *ATTRIBUTES]
    assert (table[scores].dtypes == "float32").all()
    pd.testing.assert_frame_equal(table[scores], of_csv[scores].astype("float32"))
    assert table["image"].tolist() == ["a.jpg", "b, ü\n.jpg", "no.jpg"]
    assert table["error"].isna().tolist() == [True, True, False]
    assert table["seen"].tolist()[:2] == [True, True] and table["seen"].isna().tolist() == [False, False, True]
    assert table.loc[2, ["label", "label_2", *scores]].isna().all()


def test_types_of_parquet_are_the_same_where_there_is_nothing():
    write("birds.parquet", ROWS[2:3], attributes=1)
    types = dict(zip(parquet.read_schema("birds.parquet").names, parquet.read_schema("birds.parquet").types))
    assert types["attribute"] == types["label"] == types["error"] == pa.string()
    assert types["attribute_score"] == types["score_2"] == pa.float32() and types["seen"] == pa.bool_()


def test_parquet_names_what_is_no_utf8():
    write("birds.parquet", ROWS)
    assert pd.read_parquet("birds.parquet")["image"].tolist()[-1] == "\\xff.jpg"


def test_parquet_is_written_group_by_group(monkeypatch):
    monkeypatch.setattr(prediction_formats, "ROW_GROUP_SIZE", 3)
    write("birds.parquet", [(f"{number}.jpg", answer(number / 10)) for number in range(8)])
    file = parquet.ParquetFile("birds.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 3, 2]
    assert file.read()["image"].to_pylist() == [f"{number}.jpg" for number in range(8)]


def test_an_attribute_that_is_named_as_a_column_is_refused():
    for name in ("image", "label", "score_2", "error"):
        with pytest.raises(ValueError, match=f"has an attribute '{name}', but birds.parquet has such a column"):
            PredictionFile("birds.parquet", 2, ["wing", name])
    assert os.listdir() == []


@pytest.mark.parametrize("name", ["confidence", "_wing", "5.5 in", "$"])
def test_an_attribute_that_fiftyone_cannot_have_is_refused(name):
    with pytest.raises(ValueError, match="FiftyOne takes no attribute that is named"):
        prediction_formats.check_fiftyone_names(["wing", name])
    prediction_formats.check_fiftyone_names(ATTRIBUTES)


OPTIONS = {
    "birds.parquet": {},
    "fiftyone.json": {"format": "fiftyone"},
    "tasks.json": {"format": "label-studio", "model_version": "dedn-cub"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_killed_anywhere_it_goes_on_and_nothing_unfinished_has_its_name(name):
    options = OPTIONS[name]
    write("whole." + name, ROWS, **options)
    whole = Path("whole." + name).read_bytes()
    write(name, ROWS, finish=False, **options)
    assert not os.path.exists(name)
    rows = Path(name + ".unfinished.jsonl").read_bytes()
    for length in range(0, len(rows) + 1, 13):
        Path(name + ".unfinished.jsonl").write_bytes(rows[:length])
        write(name, ROWS, resume=True, **options)
        assert Path(name).read_bytes() == whole
        assert sorted(os.listdir()) == sorted([name, "whole." + name])
        os.unlink(name)
    # Killed between its last two steps.
    write(name, ROWS, **options)
    Path(name + ".unfinished.jsonl").write_bytes(rows)
    write(name, ROWS, resume=True, **options)
    assert Path(name).read_bytes() == whole and not os.path.exists(name + ".unfinished.jsonl")


def test_new_rows_come_after_those_of_a_finished_parquet():
    write("whole.parquet", ROWS)
    write("birds.parquet", ROWS[:2])
    before = Path("birds.parquet").read_bytes()
    # Killed after one of two new rows: the finished one is as it was until the other is there, too.
    file = write("birds.parquet", ROWS[:3], finish=False, resume=True)
    assert file.done.total() == 0 and Path("birds.parquet").read_bytes() == before
    write("birds.parquet", ROWS[:3], resume=True)
    assert pd.read_parquet("birds.parquet")["image"].tolist() == ["a.jpg", "b, ü\n.jpg", "no.jpg"]
    write("birds.parquet", ROWS, resume=True)
    assert Path("birds.parquet").read_bytes() == Path("whole.parquet").read_bytes()
    inode = os.stat("birds.parquet").st_ino
    assert write("birds.parquet", ROWS, resume=True).failed == 1
    assert os.stat("birds.parquet").st_ino == inode and not os.path.exists("birds.parquet.unfinished.jsonl")


def test_what_cannot_be_gone_on_with_is_left_as_it_is():
    write("birds.parquet", ROWS)
    before = Path("birds.parquet").read_bytes()
    with pytest.raises(ValueError, match=r"birds.parquet has other columns than this run \(has 'label_2'\)"):
        write("birds.parquet", ROWS, resume=True, top_k=1)
    with pytest.raises(ValueError, match="has the label 'jay', which is no candidate now"):
        PredictionFile("birds.parquet", 2, ATTRIBUTES, {"owl"})
    assert Path("birds.parquet").read_bytes() == before and os.listdir() == ["birds.parquet"]
    for content in (b"", b"my notes", before[: len(before) // 2], before[:100] + before[200:]):
        Path("birds.parquet").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged, or no Parquet: name another file"):
            write("birds.parquet", ROWS, resume=True)
        assert Path("birds.parquet").read_bytes() == content and os.listdir() == ["birds.parquet"]


def test_what_is_there_is_not_written_over():
    write("tasks.json", ROWS, **OPTIONS["tasks.json"])
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"tasks\.json exists, and is finished: name another file"):
            PredictionFile.check("tasks.json", resume, "label-studio")
    write("birds.parquet", ROWS, finish=False)
    with pytest.raises(ValueError, match=r"birds\.parquet\.unfinished\.jsonl exists: go on with it by --resume"):
        PredictionFile.check("birds.parquet", resume=False)
    with pytest.raises(ValueError, match=r"birds\.csv must end in \.json, with --format fiftyone"):
        PredictionFile.check("birds.csv", resume=False, format="fiftyone")
    with pytest.raises(ValueError, match=r"birds\.json must end in .*, or in \.json with a --format"):
        PredictionFile.check("birds.json", resume=False)


def test_fiftyone_reads_labels_with_confidences_and_attributes(folder):
    """
    The format of a `FiftyOneImageClassificationDataset` with predictions: `labels`, from an absolute path to a target,
    of `label`, `confidence` and `attributes`, or to a list of targets; no `classes`, since labels are their names.
    """
    options = {"format": "fiftyone", "top_k": 1}
    write("labels.json", ROWS[:3], **options)
    attributes = {"seen": True, "wing: blue": 0.333333, 'a "long" tail': 0.75}
    assert read_json("labels.json") == {
        "labels": {
            str(folder / "a.jpg"): {"label": "jay", "confidence": 0.75, "attributes": attributes},
            str(folder / "b, ü\n.jpg"): {
                "label": "jay",
                "confidence": 0.5,
                "attributes": attributes | {'a "long" tail': 0.5},
            },
        }
    }
    write("several.json", [("a.jpg", answer(num_attributes=1))], format="fiftyone", attributes=2)
    assert read_json("several.json") == {
        "labels": {
            str(folder / "a.jpg"): [
                {"label": "jay", "confidence": 0.75, "attributes": {"seen": True, "wing: blue": 0.333333}},
                {"label": "=owl", "confidence": 0.123457, "attributes": {"seen": False}},
            ]
        }
    }


def test_label_studio_imports_tasks_with_predictions(folder):
    """
    A list of tasks: `data` with the image, and `predictions` with `model_version`, `score` and `result`, whose
    `from_name` and `to_name` are those of the template "Image Classification".
    """
    write("tasks.json", [*ROWS[:3], ("c d&e.jpg", answer())], **OPTIONS["tasks.json"])
    tasks = read_json("tasks.json")
    for task, name, score in zip(tasks, ("a.jpg", "b, ü\n.jpg", "c d&e.jpg"), (0.75, 0.5, 0.75), strict=True):
        assert task["data"].pop("image") == "/data/local-files/?d=" + quote(str(folder / name)[1:])
        assert task == {
            "data": {
                "seen": True,
                "label_2": "=owl",
                "score_2": 0.123457,
                "seen_2": False,
                "wing: blue": 0.333333,
                'a "long" tail': score,
            },
            "predictions": [
                {
                    "model_version": "dedn-cub",
                    "score": score,
                    "result": [
                        {"from_name": "choice", "to_name": "image", "type": "choices", "value": {"choices": ["jay"]}}
                    ],
                }
            ],
        }


@pytest.mark.parametrize(("format", "nothing"), [("fiftyone", {"labels": {}}), ("label-studio", [])])
def test_images_that_could_not_be_read_get_no_label(format, nothing):
    write("out.json", ROWS[2:3], format=format, model_version="m")
    assert read_json("out.json") == nothing


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_column_for_fit(ending):
    rows = [(image, said if isinstance(said, str) else said | {"fit": 0.25}) for image, said in ROWS[:3]]
    write(f"out.{ending}", rows, with_fit=True)
    read = {"csv": pd.read_csv, "jsonl": lambda file: pd.read_json(file, lines=True), "parquet": pd.read_parquet}
    table = read[ending](f"out.{ending}")
    assert list(table.columns)[4:9] == ["error", "label_2", "score_2", "seen_2", "fit"]
    assert table["fit"].fillna(-1).tolist() == [0.25, 0.25, -1]
