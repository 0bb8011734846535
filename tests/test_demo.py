"""What the page of `dedn demo` does, without a browser; `test_demo_page.py` opens it in one."""

import csv
import gc
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic_model import SYNTHETIC_MODEL
from tiny_pipeline import make_classifier
from transformers import pipeline

from dedn_hf import demo
from dedn_hf.data.class_table import load_class_table
from dedn_hf.demo import AGAINST, BOTH, FOR, MINE, OWN, BadInput, Page, answers_in_words, plain

TASK = "zero-shot-attribute-classification"
STATM = Path("/proc/self/statm")


@pytest.fixture(scope="module")
def page():
    return Page(pipeline(TASK, model=str(SYNTHETIC_MODEL), device="cpu"))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "bird.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)).save(path)
    return str(path)


def test_a_photo_and_its_names(page, photo):
    session = page.look(page.new_session(), photo, OWN)
    expected = page.classifier(photo, top_k=5)
    assert page.labels(session) == {entry["label"]: pytest.approx(entry["score"]) for entry in expected["labels"]}
    image, masks, colours = page.places(session)
    assert image.size == (800, 533)
    told = page.classifier(photo, top_attributes=8)["attributes"]
    for (mask, words), entry in zip(masks, told, strict=True):
        against = entry["contribution"] < 0
        assert words == page.classifier.in_words(entry) + " (against it)" * against
        assert colours[words] == (AGAINST if against else FOR)
        # The model sees the square in the middle; the edge of a mark is 5 pixels wide.
        assert mask.shape == (533, 800) and mask.any() and not mask[:, :127].any() and not mask[:, 673:].any()
    # It is noise. Models of before say nothing of fit.
    assert page.summary(session) == f"**Fit {session.result['fit']:.0%}**: perhaps none of these."
    session.result["fit"] = None
    assert page.summary(session) == ""
    assert page.look(session, None, OWN).result is None


def test_where_it_was_seen_is_where_attention_is_highest(page, photo):
    session = page.look(page.new_session(), photo, OWN)
    grids = [np.asarray(entry["attention"]) for entry in session.result["attributes"]]
    for grid, (mask, _) in zip(grids, page.places(session)[1]):
        side = 533 / len(grid)
        row, column = np.unravel_index(grid.argmax(), grid.shape)
        assert mask[int((row + 0.5) * side), int(800 / 6 + (column + 0.5) * side)] == demo.MARK_OPACITY
        row, column = np.unravel_index(grid.argmin(), grid.shape)
        within = mask[int((row + 0.5) * side), int(800 / 6 + (column + 0.5) * side)] == demo.MARK_OPACITY
        assert not within or grid.min() > grid.max() / 2


def test_little_is_kept_of_a_photo(page, tmp_path):
    Image.new("RGB", (3000, 2000), "red").save(tmp_path / "large.png")
    session = page.look(page.new_session(), str(tmp_path / "large.png"), OWN)
    assert session.photo.size == (800, 533)
    # All maps together, which come as lists of floats of 32 bytes each.
    assert all(entry["attention"].dtype == np.float16 for entry in session.result["attributes"])
    _, masks, _ = page.places(session)
    assert masks[0][0].shape == (533, 800)


def test_a_rank_where_the_class_is_not_sure(page, photo, monkeypatch):
    parents = dict.fromkeys(page.config.label2id, "Bird *")
    monkeypatch.setattr(page.config, "class_parents", parents)
    session = page.look(page.new_session(), photo, OWN)
    name = session.result["ranks"][0]["label"]
    assert f"**Surely**: {plain(name)} (" in page.summary(session)


def test_answers_move_the_labels(page, photo):
    session = page.look(page.new_session(), photo, OWN)
    before, question = page.labels(session), session.result["ask"][0]
    assert question == page.classifier(photo, ask=3, ask_by="property")["ask"][0]
    assert page.questions(session)[0] == plain(question["question"])
    values = [answer["attribute"] for answer in question["answers"]]
    texts = [text for text, _ in page.options(session, 0)]
    assert texts == [*(answer["label"] for answer in question["answers"][:6]), "none of these", "don't know"]
    session = page.answer(session, 0, 1)
    observed = {value: value == values[1] for value in values}
    expected = page.classifier(photo, observed=observed, top_k=5)["labels"]
    assert page.labels(session) == {entry["label"]: pytest.approx(entry["score"], rel=1e-3) for entry in expected}
    assert f"Answered: {plain(question['property'])}: {plain(texts[1])}." in page.summary(session).replace("\\:", ":")
    asked = [entry["property"] for entry in session.result["ask"]]
    assert question["property"] not in asked
    session = page.answer(session, 0, len(page.options(session, 0)) - 1)  # nobody knows
    assert asked[0] not in [entry["property"] for entry in session.result["ask"]]
    assert page.labels(page.forget_answers(session)) == {name: pytest.approx(score) for name, score in before.items()}
    page.answer(page.new_session(), 0, 0)  # without a photo there is nothing to answer


def test_none_of_the_values_that_are_shown(page, photo):
    session = page.look(page.new_session(), photo, OWN)
    asked = page.classifier(photo, ask=99, ask_by="property")["ask"]
    session.result["ask"] = [question] = [entry for entry in asked if len(entry["answers"]) > 6][:1]
    shown = [answer["attribute"] for answer in question["answers"][:6]]
    page.answer(session, 0, 6)
    assert session.observed == dict.fromkeys(shown, 0.0)
    others = {answer["attribute"] for answer in question["answers"][6:]}
    again = page.classifier(photo, observed=session.observed, ask=99, ask_by="property")["ask"]
    assert [{answer["attribute"] for answer in entry["answers"]} <= others for entry in again].count(True) == 1
    assert page.summary(session).count("not ") == 6


def test_an_attribute_alone_is_asked_by_yes_or_no(page, photo):
    session = page.look(page.new_session(), photo, OWN)
    session.result["ask"] = [{"answers": [{"attribute": "has_wing_color::blue", "label": "blue", "chance": 0.5}]}]
    assert page.options(session, 0) == [
        ("yes", {"has_wing_color::blue": 1.0}),
        ("no", {"has_wing_color::blue": 0.0}),
        ("don't know", {"has_wing_color::blue": None}),
    ]
    assert page.options(session, 1) == []


def test_answers_in_words():
    observed = {"has_wing_color::blue": 0.0, "has_size::small": None, "has_wing_color::red": 1.0, "striped": 0.0}
    observed |= {"has_tail_shape::forked": 0.0, "has_tail_shape::round": 0.0}
    assert answers_in_words(observed) == ["wing color: red", "striped: no", "tail shape: not forked, not round"]
    assert answers_in_words({"has_size::small": None}) == []


PARENTS = (
    "class,parent,wing color: red,wing color: blue\none,warm,1,0\nother,warm,0.9,0\nthird,,0,1\nwarm,any,0.5,0.5\n"
)


def test_parents_of_a_table_of_ones_own(page, photo, tmp_path):
    (tmp_path / "mine.csv").write_text(PARENTS.replace("third,,", "third,any,"))
    session = page.load_table(page.new_session(), str(tmp_path / "mine.csv"))
    assert session.parents == {"one": "warm", "other": "warm", "third": "any", "warm": "any"}
    page.look(session, photo, MINE)
    scores = page.labels(session)
    ranks = {rank["label"]: rank["score"] for rank in session.result["ranks"]}
    assert ranks["any"] == pytest.approx(1, abs=1e-5)
    warm = scores["one"] + scores["other"] + scores["warm"]
    assert ("warm" in ranks) == (warm >= 0.8) and ranks.get("warm", warm) == pytest.approx(warm)
    assert f"**Surely**: {next(iter(ranks))} (" in page.summary(session)
    # Answers move ranks, too.
    page.answer(session, 0, 0)
    assert session.result["ranks"][-1]["label"] == "any"
    # Of the model's classes, and for other visitors, there are none.
    assert "ranks" not in page.look(session, photo, OWN).result
    other = page.new_session()
    page.add_class(other, "one", "a red wing", [], None)
    assert "ranks" not in page.look(other, photo, MINE).result and page.config.class_parents == {}


def test_a_saved_table_keeps_parents(page, tmp_path):
    (tmp_path / "mine.csv").write_text(PARENTS)
    session = page.load_table(page.new_session(), str(tmp_path / "mine.csv"))
    page.remove_class(session, "other")
    page.add_class(session, "new", "a red wing", [], None)
    file = page.save_table(session, str(tmp_path))
    again = page.load_table(page.new_session(), file)
    assert again.parents == session.parents == {"one": "warm", "warm": "any"}
    assert list(again.classes) == list(session.classes) == ["one", "third", "warm", "new"]
    # A class that is read anew has the parent that it has there.
    (tmp_path / "more.csv").write_text("class,parent,wing color: red\none,cool,1\nwarm,,1\n")
    assert page.load_table(session, str(tmp_path / "more.csv")).parents == {"one": "cool"}


def test_parents_that_go_in_a_circle_with_those_that_are_there(page, tmp_path):
    (tmp_path / "mine.csv").write_text(PARENTS)
    (tmp_path / "more.csv").write_text("class,parent,wing color: red\nany,one,1\n")
    session = page.load_table(page.new_session(), str(tmp_path / "mine.csv"))
    with pytest.raises(BadInput, match=r"^more\.csv: with the parents .* in a circle: 'one' → 'warm' → 'any' → 'one'"):
        page.load_table(session, str(tmp_path / "more.csv"))
    assert "any" not in session.classes and "any" not in session.parents


def test_classes_of_ones_own(page, photo, tmp_path):
    session = page.new_session()
    with pytest.raises(BadInput, match="no classes of yours"):
        page.look(session, photo, MINE)
    attribute = next(shown for shown, name in page.attribute_of.items() if name == "has_head_color::red")
    session, said = page.add_class(session, "Garden  Lantern", "a blue wing and a gizmo", [attribute], None)
    assert "Garden Lantern is one of your classes" in said and "Not read: gizmo" in said
    session, _ = page.add_class(session, "Seen", "", [], [photo])
    strengths = session.classes["Garden Lantern"]
    assert strengths["has_head_color::red"] == 1 and strengths["has_wing_color::blue"] > 0.5
    assert session.classes["Seen"] == pytest.approx(page.classifier.describe(photo), abs=1e-6)
    assert set(page.labels(page.look(session, photo, MINE))) == {"Garden Lantern", "Seen"}
    together = page.look(session, photo, BOTH).result["labels"]
    assert len(together) == page.config.num_labels + 2
    file = page.save_table(session, str(tmp_path))
    again = page.load_table(page.new_session(), file)
    for name, row in session.classes.items():
        assert again.classes[name] == pytest.approx(row, abs=0.005)
    assert load_class_table(file).class_names == ["Garden Lantern", "Seen"]
    assert list(page.remove_class(session, "Seen").classes) == ["Garden Lantern"]


def test_visitors_do_not_mix(page, photo):
    first, second = page.new_session(), page.new_session()
    page.add_class(first, "mine", "a red wing", [], None)
    page.look(first, photo, OWN)
    assert second.classes == {} and second.result is None and page.new_session().classes == {}


def test_many_photos(page, photo, tmp_path):
    broken = tmp_path / "=broken.jpg"
    broken.write_bytes(b"no image")
    rows, file = page.name_many(page.new_session(), [photo, str(broken), photo], OWN, str(tmp_path))
    assert [row[0] for row in rows] == ["bird.png", "=broken.jpg", "bird.png"]
    assert rows[0][1] == page.classifier(photo)["labels"][0]["label"] and rows[0] == rows[2]
    assert rows[1][1] == "" and "cannot be read as a photo" in rows[1][4] and str(tmp_path) not in rows[1][4]
    with open(file, newline="", encoding="utf-8") as lines:
        table = list(csv.reader(lines))
    assert table[0] == ["photo", "name", "score", "fit", "because"] and len(table) == 4
    assert table[2][0] == "'=broken.jpg"  # no formula
    with pytest.raises(BadInput, match="Choose photos first"):
        page.name_many(page.new_session(), None, OWN, str(tmp_path))


def test_of_many_photos_the_file_has_all_and_the_page_a_few(page, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MAX_ROWS", 2)
    rows, file = page.name_many(page.new_session(), [photo] * 4, OWN, str(tmp_path))
    assert len(rows) == 2
    with open(file, newline="", encoding="utf-8") as lines:
        assert len(list(csv.reader(lines))) == 5


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="this system does not tell how much memory a process has")
def test_memory_does_not_grow_with_the_number_of_photos(tmp_path):
    """Ten times as many as are read at a time, one time after the other, of one visitor."""
    page, random = Page(make_classifier()), np.random.default_rng(0)
    session, objects, resident = page.new_session(), [], []
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        files = [str(folder / f"{place}.png") for place in range(demo.MAX_PHOTOS)]
        for file in files:
            Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(file)
        rows, file = page.name_many(session, files, OWN, str(folder))
        assert len(rows) == demo.MAX_ROWS
        with open(file, newline="", encoding="utf-8") as lines:
            assert sum(1 for row in csv.reader(lines) if row[1]) == len(files) + 1
        del rows, files, lines
        gc.collect()
        objects.append(len(gc.get_objects()))
        resident.append(int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    # Of 8,000 photos each would be one object at least, and as the model takes it 55 MB in all.
    assert objects[-1] - objects[1] < 1000
    assert resident[-1] - resident[1] < 20e6


def test_too_many_photos_are_refused_before_any_is_read(page, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "MAX_PHOTOS", 2)
    for call in (
        lambda: page.name_many(page.new_session(), [photo] * 3, OWN, str(tmp_path)),
        lambda: page.add_class(page.new_session(), "x", "", [], [photo] * 3),
    ):
        with pytest.raises(BadInput, match="These are 3 photos, and at most 2 are read"):
            call()
    assert not (tmp_path / "names.csv").exists()


def test_a_table_with_a_fault_is_told_without_its_place(page, tmp_path):
    (tmp_path / "mine.csv").write_text("class,wing color: red\none,<b>much</b>\n")
    with pytest.raises(BadInput, match=r"^mine\.csv cannot be used") as error:
        page.load_table(page.new_session(), str(tmp_path / "mine.csv"))
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [b"<html><script>alert(1)</script></html>", b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"", b"\xff\xd8\xff"],
    ids=["HTML", "SVG", "nothing", "half a JPEG"],
)
def test_what_is_no_photo(page, tmp_path, content):
    (tmp_path / "bird.jpg").write_bytes(content)
    with pytest.raises(BadInput, match=r"^bird\.jpg cannot be read as a photo") as error:
        page.look(page.new_session(), str(tmp_path / "bird.jpg"), OWN)
    assert str(tmp_path) not in str(error.value)


def test_a_bomb_of_an_image(page, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (100, 100)).save(tmp_path / "bird.png")
    with pytest.raises(BadInput, match="cannot be read as a photo"):
        page.look(page.new_session(), str(tmp_path / "bird.png"), OWN)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("", "a red wing", [], None), "Give the class a name"),
        (("x", " ", [], None), "Describe it"),
        (("x", "a nice fellow", [], None), "of which nothing is understood"),
        (("x", "", [], ["/no/such.png"]), "such.png cannot be read"),
    ],
)
def test_classes_that_cannot_be_added(page, arguments, message):
    session = page.new_session()
    with pytest.raises(ValueError, match=message):
        page.add_class(session, *arguments)
    assert session.classes == {}


def test_names_are_text_and_no_markup(page):
    _, said = page.add_class(page.new_session(), "<img src=x onerror=alert(1)> [a](b) **c**", "a red wing", [], None)
    assert "<img" not in said and "\\[a\\]\\(b\\)" in said and "\\*\\*c\\*\\*" in said


def test_a_table_with_formulas(page, tmp_path):
    (tmp_path / "mine.csv").write_text('class,wing color: red\n"=HYPERLINK(""x"")",1\n')
    session = page.load_table(page.new_session(), str(tmp_path / "mine.csv"))
    assert list(session.classes) == ['=HYPERLINK("x")']
    with open(page.save_table(session, str(tmp_path)), newline="", encoding="utf-8") as lines:
        assert list(csv.reader(lines))[1][0] == '\'=HYPERLINK("x")'


def test_a_table_that_visitors_begin_with(tmp_path):
    (tmp_path / "mine.csv").write_text("class,parent,wing color: red\none,warm,1\n")
    page = Page(pipeline(TASK, model=str(SYNTHETIC_MODEL), device="cpu"), tmp_path / "mine.csv")
    session = page.new_session()
    page.remove_class(session, "one")
    assert list(page.new_session().classes) == ["one"] and session.classes == {}
    assert page.new_session().parents == {"one": "warm"} and session.parents == {}


def test_files_to_download_lie_in_the_folder_of_the_page(page, photo, tmp_path):
    session, _ = page.add_class(page.new_session(), "x", "a red wing", [], None)
    for file in (page.save_table(session, str(tmp_path)), page.name_many(session, [photo], OWN, str(tmp_path))[1]):
        assert Path(file).is_relative_to(tmp_path) and os.path.isfile(file)
