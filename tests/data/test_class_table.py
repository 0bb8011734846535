import random

import numpy as np
import pytest

from dedn_hf.data.class_table import ClassTable, add_class, load_class_table


@pytest.fixture
def read(tmp_path):
    def read(text, attribute_scale=None, encoding="utf-8"):
        (tmp_path / "birds.csv").write_bytes(text.encode(encoding))
        return load_class_table(tmp_path / "birds.csv", attribute_scale)

    return read


@pytest.mark.parametrize(
    ("rows", "values", "said"),
    [
        (["1,0.5", "0,1"], [[1, 0.5], [0, 1]], "up to 1 taken as fractions"),
        (["100,50", "0,30"], [[1, 0.5], [0, 0.3]], "up to 100 taken as per cent"),
        (["100%,50 %", "0,3.5%"], [[1, 0.5], [0, 0.035]], "up to 100 %"),
        (["yes,No", "FALSE,true"], [[1, 0], [0, 1]], "up to 100 %"),
        (["ja,Nein", "FAUX,Vrai"], [[1, 0], [0, 1]], "up to 100 %"),
        (["sí,no", "não,sim"], [[1, 0], [0, 1]], "up to 100 %"),
        (["yes,40", "no,80"], [[1, 0.4], [0, 0.8]], "up to 80 taken as per cent"),
        (["yes,0", "no,80"], [[1, 0], [0, 0.8]], "up to 80 taken as per cent"),
        (["x,", ",X"], [[1, 0], [0, 1]], "x taken as yes and an empty cell as no in 2 columns"),
        (['1,"0,5"', "0,1"], [[1, 0.5], [0, 1]], "decimal commas"),
        (["1,-1", "0,0.5"], [[1, 0.5], [0, 0.5]], "-1 taken as unknown, in 1 cells"),
        (["1,?", "0,0.5"], [[1, 0.5], [0, 0.5]], "1 unknown strength takes all classes' mean"),
    ],
)
def test_cells(read, rows, values, said):
    one, other = rows
    table = read(f"class,a,b\none,{one}\nother,{other}\n")
    np.testing.assert_allclose(table.class_attributes, values, rtol=1e-6)
    assert any(said in line for line in table.understood), table.understood


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["1,0", "0,10", "1,1"], "line 3 (k1): 'b' is '10', but 2 of 3 classes have no strength above 1"),
        (["90,80", "0,1", "70,30"], "line 3 (k1): 'b' is '1', the highest strength of the class, but 2 of 3"),
        (["1,50", "0,80"], "line 2 (k0): 'a' is '1', the highest strength of the attribute, but others go up to 80"),
        (["5,0", "0,3"], "line 2 (k0): 'a' is '5', the highest strength: too high for fractions"),
        (["2,7", "5,200"], "line 3 (k1): 'b' is '200', neither"),
        (["1,-1", "-1,1"], "line 2 (k0): 'b' is '-1', and there is no third value"),
        (["1,-1", "-0.5,1"], "line 2 (k0): 'b' is '-1', but strengths must be numbers from 0 on"),
        (["1,−3", "0.5,1"], "bring each column to 0 to 1: (x - min) / (max - min)"),
        (["1,", ",1"], "line 2 (k0): 'b' is '', which means unknown, and all other cells are the same"),
        (["1,", "0.5,"], "attribute 'b' is unknown in all classes"),
        (["1,0.5", ","], "line 3 (k1): the class has no attribute above 0"),
        (["100%,1", "0,50%"], "line 2 (k0): 'b' is '1', but .* 'a' is '100%', with a per cent sign"),
        (["120%,1", "0,50%"], "line 2 (k0): 'a' is '120%', above 100 %"),
        (['0.5,"0,5"', "1,0.2"], "line 2 (k0): 'b' is '0,5', and there are decimal commas as well as points"),
        (['"1.000,5",0', "0,1"], "line 2 (k0): 'a' is '1.000,5', but strengths"),
        (["1_0,0", "0,1"], "line 2 (k0): 'a' is '1_0', but strengths"),
    ],
)
def test_what_fits_no_scale_is_refused_by_its_place(read, rows, message):
    with pytest.raises(ValueError) as error:
        read("class,a,b\n" + "".join(f"k{number},{row}\n" for number, row in enumerate(rows)))
    start, *end = message.split(".* ")
    assert start in str(error.value) and all(part in str(error.value) for part in end), error.value


@pytest.mark.parametrize(("scale", "top"), [("unit", 1), ("percent", 100), ("5", 5), (5, 5), ("2.5", 2.5)])
def test_attribute_scale_says_what_the_table_does_not(read, scale, top):
    text = "class,a,b\none,1,0\nother,0.5,1\n"
    np.testing.assert_allclose(read(text, scale).class_attributes, np.array([[1, 0], [0.5, 1]]) / top, rtol=1e-6)
    with pytest.raises(ValueError, match=r"line 3 \(other\): 'a' is '101', above the "):
        read("class,a,b\none,1,0\nother,101,1\n", scale)


@pytest.mark.parametrize("scale", ["five", "0", "-1", "nan", "inf", "", [], "1/2"])
def test_wrong_attribute_scale(read, scale):
    with pytest.raises(ValueError, match=r"attribute_scale is .*; it must be unit"):
        read("class,a\none,1\n", scale)


PLAIN = "class,a,b\none,1,0.5\nother,0,1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN.replace(",", ";"), "semicolons between values"),
        (PLAIN.replace(",", "\t"), "tabs between values"),
        (PLAIN.replace(",", ";").replace(".", ","), "decimal commas"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "semicolons between values"),
        ("sep=,\r\n" + PLAIN, ""),
        ("\ufeff" + PLAIN, ""),
        ("# mine, of today\n" + PLAIN.replace("other", "#two\nother"), "left out lines that begin with #: 2"),
        (",class,a,b\n0,one,1,0.5\n1,other,0,1\n", "left out the first column, which numbers the rows"),
        ("Unnamed: 0,class,a,b\n0,one,1,0.5\n1,other,0,1\n", "left out the first column"),
        (",a,b\none,1,0.5\nother,0,1\n", "the first column, which has no name, taken as 'class'"),
        ("Class,a,b,,\none,1,0.5,,\nother,0,1,,,\n", ""),
        (PLAIN.replace("\n", "\r"), ""),
    ],
)
def test_tables_as_programs_write_them(read, text, said):
    table = read(text)
    assert table.class_names == ["one", "other"] and table.attribute_names == ["a", "b"]
    np.testing.assert_allclose(table.class_attributes, [[1, 0.5], [0, 1]], rtol=1e-6)
    assert any(said in line for line in table.understood), table.understood


def test_utf_16_of_a_spreadsheet(read):
    assert read("class\ta\nWürger\t1\n", encoding="utf-16").class_names == ["Würger"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("attribute,one,other\na,1,0\n", "line 1: .* exchange rows and columns"),
        ("class,a,b\none,0,5,1\n", "line 2: 4 values where the header has 3; a value with a comma"),
        ("# mine\n\nname,a\none,1\n", "line 3: the header must begin with 'class'"),
        ("# mine\nclass,a\n#\none,high\n", "line 4 (one): 'a' is 'high'"),
        (",a,b\n0,1,0\n1,0,1\n", "line 1: the header must begin with 'class'"),
    ],
)
def test_what_is_no_table_is_refused_by_its_line(read, text, message):
    with pytest.raises(ValueError) as error:
        read(text)
    assert all(part in str(error.value) for part in message.split(".* ")), error.value


def test_a_folder_for_a_file(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_class_table(tmp_path)


@pytest.mark.filterwarnings("error")
def test_mutated_tables_are_read_as_fractions_or_refused(read):
    tables = [
        "class,a,b\nr,1,0.5\nw,80,20\n",
        "class;a;b\nr;1;0,5\nw;0;x\n",
        ",class,a\n0,r,yes\n1,w,\n",
        "sep=\t\nclass\ta\nr\t10%\n",
    ]
    pieces = [*',;\t"#\n\r%-.0159xe? \x00\ufeffé²', "nan", "-1", "class", "1e999", "sep=", "yes"]
    draw, refused = random.Random(0), 0
    for _ in range(1000):
        text = list(draw.choice(tables))
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(text))
            text[place : place + draw.randint(0, 2)] = draw.choice([[], [draw.choice(pieces)]])
            text = text or [","]
        try:
            values = read("".join(text), encoding=draw.choice(["utf-8", "utf-16"])).class_attributes
            assert ((values >= 0) & (values <= 1)).all() and (values > 0).any(1).all(), text
        except ValueError as error:
            assert "cannot be used:\n- " in str(error)
            refused += 1
    assert 0 < refused < 1000


def test_a_row_that_ends_after_its_number(read):
    with pytest.raises(ValueError, match="line 3: 0 values where the header has 2"):
        read(",class,a\n0,one,1\n1\n")


def test_parents(read):
    table = read("class,Parent,a,b\nIndigo Bunting,Bunting,1,0\nLazuli Bunting, bunting ,0,1\nSayornis,,1,1\n")
    assert table.class_parents == {"Indigo Bunting": "Bunting", "Lazuli Bunting": "bunting"}
    assert table.attribute_names == ["a", "b"]
    assert "birds.csv: 2 classes under 2 parents" in table.understood
    assert "birds.csv: 'Bunting' and 'bunting' are two parents, alike but for case, spaces or the like" in table.notes
    assert read("class,a\nwren,1\n").class_parents == {}


@pytest.mark.parametrize(
    "rows, circle",
    [
        (["wren,wren,1", "owl,,1"], r"line 2: parents go in a circle: 'wren' → 'wren'"),
        (["wren,,1", "owl,gull,1", "gull,owl,1"], r"line 3: parents go in a circle: 'owl' → 'gull' → 'owl'"),
    ],
)
def test_parents_in_a_circle(read, rows, circle):
    with pytest.raises(ValueError, match=rf"birds\.csv, {circle}; leave one of them empty"):
        read("\n".join(["class,parent,a", *rows]))


def test_classes_in_prose(read):
    table = read('class,description,a,b\none,"red, with a tail",0.5,\nother,,1,0\n')
    assert table.attribute_names == ["a", "b"]
    assert table.descriptions() == {
        "one": {"text": "red, with a tail", "attributes": {"a": 0.5}},
        "other": {"a": 1, "b": 0},
    }
    assert "birds.csv: classes described in prose: 1" in table.understood


def test_a_table_of_prose_alone(read):
    table = read("class,description\none,a red bird\nother,a blue bird\n")
    assert table.descriptions()["one"] == {"text": "a red bird", "attributes": None}
    with pytest.raises(ValueError, match=r"line 3: class 'other' is described by nothing"):
        read("class,description\none,a red bird\nother,\n")
    with pytest.raises(ValueError, match="there are no attributes after 'class'"):
        read("class,description\none,\nother,\n")


def test_prose_is_no_attribute_where_none_is_asked_for(tmp_path):
    (tmp_path / "birds.csv").write_text("class,description,a\none,red,1\nother,,0\n")
    table = ClassTable()
    table.read_classes(tmp_path / "birds.csv")
    assert table.prose == {} and table.attribute_names == ["a"]
    assert "birds.csv: columns that are not read as attributes: description" in table.notes


@pytest.mark.parametrize(
    "before, row",
    [
        ("class,a,B b\none,0.5,1\n", "new,0.25,\n"),
        ("class,a,B b\none,0.5,1", "\nnew,0.25,\n"),
        ("class,a,c\r\none,50,20\r\n", "new,25,100\r\n"),
        ("class;a;parent\none;0,5;x\n", "new;0,25;\n"),
        ("class,a\none,50%\n", "new,25%\n"),
        ("# mine\nclass,a\none,yes\n", "new,25%\n"),
    ],
)
def test_a_class_more(tmp_path, before, row):
    """In the table's own columns and scale; what was there stays to the byte."""
    file = tmp_path / "birds.csv"
    file.write_bytes(before.encode())
    add_class(file, "new", {"a": 0.25, "c": 1.0} | ({"b b": 0.5} if "B b" in before else {}))
    expected = row.replace("0.25,\n", "0.25,0.5\n") if "B b" in before else row
    assert file.read_bytes().decode() == before + expected
    assert load_class_table(file).descriptions()["new"]["a"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    "before, message",
    [
        ("class,a\nnew,1\n", "has the class 'new' already"),
        ("class,a\none,high\n", "'a' is 'high'"),
        (",class,a\n0,one,1\n", "another first column than 'class'"),
        ("class,x\none,1\n", "columns that are no attributes of the model: x"),
    ],
)
def test_tables_that_take_no_class(tmp_path, before, message):
    file = tmp_path / "birds.csv"
    file.write_text(before)
    with pytest.raises(ValueError, match=message):
        add_class(file, "new", {"a": 0.25})
    assert file.read_text() == before
