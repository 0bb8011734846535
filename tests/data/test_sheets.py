import datetime
import random
import shlex
import sys
import zipfile

import numpy as np
import openpyxl
import pandas
import pytest
from openpyxl.styles import numbers
from PIL import Image

from dedn_hf.data.class_table import load_class_table
from dedn_hf.data.folder import load, read_folder

ROWS = [["class", "red", "blue"], ["Robin", 1, 0.25], ["Wren", 0, 0.5], ["Tit", 0.125, None]]
STRENGTHS = [[1, 0.25], [0, 0.5], [0.125, 0.375]]


def write_excel(file, rows, title="Sheet", change=None):
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    if change:
        change(book)
    book.save(file)
    return file


@pytest.fixture
def folder(tmp_path):
    for name in ("Robin", "Wren", "Tit"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / f"images/{name}/{i}.png")
    return tmp_path


def test_a_spreadsheet_and_parquet_are_read_as_csv_is(tmp_path):
    write_excel(tmp_path / "birds.xlsx", ROWS)
    frame = pandas.DataFrame(ROWS[1:], columns=ROWS[0])
    frame.to_parquet(tmp_path / "birds.parquet")
    frame.set_index("class").to_parquet(tmp_path / "indexed.parquet")
    frame.set_index(pandas.Index(frame["class"].tolist()))[["red", "blue"]].to_parquet(tmp_path / "unnamed.parquet")
    frame.to_csv(tmp_path / "birds.csv", index=False)
    for name in ("birds.csv", "birds.xlsx", "birds.parquet", "indexed.parquet", "unnamed.parquet"):
        table = load_class_table(tmp_path / name)
        assert table.class_names == ["Robin", "Wren", "Tit"] and table.attribute_names == ["red", "blue"], name
        np.testing.assert_allclose(table.class_attributes, STRENGTHS, rtol=1e-6, err_msg=name)


def test_cells_keep_what_they_mean(tmp_path):
    def in_per_cent(book):
        for row in book.active.iter_rows(min_row=2, min_col=2):
            for cell in row:
                cell.number_format = numbers.FORMAT_PERCENTAGE

    write_excel(tmp_path / "birds.xlsx", [*ROWS, [7, 0.5, 0.5]], change=in_per_cent)
    table = load_class_table(tmp_path / "birds.xlsx")
    assert table.class_names[3] == "7" and "from words or per cent signs" in "".join(table.understood)
    np.testing.assert_allclose(table.class_attributes[:2], STRENGTHS[:2])
    write_excel(tmp_path / "words.xlsx", [["class", "a", "b"], ["one", True, False], ["two", False, True]])
    np.testing.assert_array_equal(load_class_table(tmp_path / "words.xlsx").class_attributes, np.eye(2))


@pytest.mark.parametrize(
    ("rows", "change", "message"),
    [
        ([*ROWS, ["Owl", datetime.datetime(2026, 2, 1), 1]], None, r"line 5 \(Owl\): 'red' is '2026-02-01'"),
        ([*ROWS, ["Owl", "=1/2", 1]], None, "has a formula without a value in B5"),
        (ROWS, lambda book: book.active.merge_cells("B2:B3"), "has merged cells, B2:B3"),
        (
            ROWS,
            lambda book: book.create_sheet("more").append(["x"]),
            "has 2 sheets, 'Sheet', 'more': name the",
        ),
        ([], None, "is empty"),
    ],
)
def test_what_is_not_understood_of_a_spreadsheet_is_named(tmp_path, rows, change, message):
    write_excel(tmp_path / "birds.xlsx", rows, change=change)
    with pytest.raises(ValueError, match=message):
        load_class_table(tmp_path / "birds.xlsx")


def test_of_several_sheets_the_one_of_the_name(tmp_path):
    write_excel(tmp_path / "birds.xlsx", ROWS, "Birds", lambda book: book.create_sheet("more").append(["x"]))
    assert load_class_table(tmp_path / "birds.xlsx").class_names == ["Robin", "Wren", "Tit"]


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet", ".ods"])
def test_what_is_no_such_file(tmp_path, suffix):
    (tmp_path / f"birds{suffix}").write_bytes(b"PK\x03\x04 and nothing of use")
    with pytest.raises(ValueError, match=rf"birds{suffix} is .* (as|or) CSV"):
        load_class_table(tmp_path / f"birds{suffix}")
    with pytest.raises(ValueError, match="missing"):
        load_class_table(tmp_path / "none.xlsx")


def test_without_openpyxl(tmp_path, monkeypatch):
    write_excel(tmp_path / "birds.xlsx", ROWS)
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(ValueError, match=r"pip install 'dedn-hf\[excel\]', or save the table as CSV"):
        load_class_table(tmp_path / "birds.xlsx")


def test_a_folder_of_spreadsheets(folder):
    write_excel(folder / "Classes.xlsx", ROWS)
    rows = [["attribute", "group"], ["red", "a"], ["blue", "b"]]
    pandas.DataFrame(rows[1:], columns=rows[0]).to_parquet(folder / "attributes.parquet")
    write_excel(folder / "split.xlsx", [["class", "split"], ["Robin", "seen"], ["Wren", "seen"], ["Tit", "unseen"]])
    dataset = load(folder)
    assert dataset.class_names == ["Robin", "Wren", "Tit"] and dataset.attribute_groups == {"a": [0], "b": [1]}
    assert [dataset.class_names[index] for index in dataset.unseen_class_ids] == ["Tit"]
    assert "Classes.xlsx taken as classes.csv" in read_folder(folder).understood


def test_tabs_by_the_name(folder):
    text = "".join("\t".join("" if cell is None else str(cell) for cell in row) + "\n" for row in ROWS)
    (folder / "classes.tsv").write_text(text)
    assert load(folder).class_names == ["Robin", "Wren", "Tit"]


def test_two_files_for_one_table(folder):
    (folder / "classes.csv").write_text("class,red\nRobin,1\nWren,0.5\nTit,0.2\n")
    write_excel(folder / "classes.xlsx", ROWS)
    assert "classes.csv and classes.xlsx may both be classes.csv: keep one" in read_folder(folder).problems


@pytest.mark.parametrize("name", ["classes.csv", "classes.tsv", "classes.xlsx", "classes.parquet"])
@pytest.mark.parametrize("corner", ["attribute", ""])
def test_the_advice_for_a_transposed_table_works(folder, name, corner):
    frame = pandas.DataFrame(ROWS[1:], columns=ROWS[0]).fillna(0.375).set_index("class").T.rename_axis(corner or None)
    if name.endswith("v"):
        frame.to_csv(folder / name, sep="\t" if name.endswith(".tsv") else ",")
    else:
        getattr(frame, "to_excel" if name.endswith("x") else "to_parquet")(folder / name)
    (problem,) = [problem for problem in read_folder(folder).problems if "classes as columns" in problem]
    (code,) = shlex.split(problem.partition("python -c ")[2])
    exec(code, {})
    (folder / name).unlink()
    (folder / "classes.new.csv").rename(folder / "classes.csv")
    dataset = load(folder)
    assert dataset.class_names == ["Robin", "Wren", "Tit"] and dataset.attribute_names == ["red", "blue"]
    np.testing.assert_allclose(dataset.class_attributes, STRENGTHS, rtol=1e-6)


def test_reserved_columns_are_no_attributes(folder):
    (folder / "classes.csv").write_text(
        "class,Parent,red,blue,description\nRobin,Bird,1,0.25,a bird\nWren,Bird,0,0.5,\nTit,,0.125,,small\n"
    )
    dataset = load(folder)
    assert dataset.attribute_names == ["red", "blue"]
    np.testing.assert_allclose(dataset.class_attributes[:2], STRENGTHS[:2])
    assert dataset.class_parents == {"Robin": "Bird", "Wren": "Bird"}
    assert "classes.csv: columns that are not read as attributes: description" in dataset.notes


def test_what_is_not_utf_8_is_named_by_its_line(tmp_path):
    (tmp_path / "birds.csv").write_bytes("class,red\nRobin,1\nCafé,0.5\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"birds\.csv is not UTF-8, first in line 3"):
        load_class_table(tmp_path / "birds.csv")


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_mutated_files_are_read_or_refused(tmp_path, suffix):
    write_excel(tmp_path / "birds.xlsx", ROWS)
    pandas.DataFrame(ROWS[1:], columns=ROWS[0]).to_parquet(tmp_path / "birds.parquet")
    file = tmp_path / f"birds{suffix}"
    content, random_numbers, refused = file.read_bytes(), random.Random(0), 0
    parts = {}
    if suffix == ".xlsx":
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(60):
        # Of an archive its parts are changed, since it knows its own bytes.
        name = random_numbers.choice(sorted(parts)) if parts else None
        changed = bytearray(parts.get(name, content))
        for _ in range(random_numbers.randint(1, 3)):
            changed[random_numbers.randrange(len(changed))] = random_numbers.choice(b'<>"0a&/ 9\xff\x00')
        if parts:
            with zipfile.ZipFile(file, "w") as archive:
                for part, unchanged in parts.items():
                    archive.writestr(part, bytes(changed) if part == name else unchanged)
        else:
            file.write_bytes(changed)
        try:
            strengths = load_class_table(file).class_attributes
            assert ((strengths >= 0) & (strengths <= 1)).all()
        except ValueError as error:
            refused += str(error).startswith(str(file))
    assert refused > 20
