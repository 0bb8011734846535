import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tiny_pipeline import make_classifier, make_image

from dedn_hf.evaluation.explanation_page import DIGITS, thumbnail, write_explanation_page

NASTY = "<script>alert('x')</script>\"'&amp;"


class Page(HTMLParser):
    """A page: its elements, of each its attributes and the text within, in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements, self.open = [], []
        self.feed(self.source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", "within": list(self.open)} | {"attributes": dict(attrs)}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def find(self, tag, within=None, **attributes):
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and (within is None or within in element["within"])
            and all(element["attributes"].get(name.strip("_")) == value for name, value in attributes.items())
        ]


@pytest.fixture(scope="module")
def classifier():
    return make_classifier()


@pytest.fixture
def answer(classifier):
    """Says of an image what the page takes."""

    def answer(image, **parameters):
        parameters = {"top_k": 3, "top_attributes": 4, "attention": "grid"} | parameters
        return classifier(image, **parameters) | {"size": image.size, "thumbnail": thumbnail(image)}

    return answer


@pytest.fixture
def write(classifier, tmp_path):
    def write(answers, describe=classifier.in_words, title="What photos show", model="model", **options):
        path = tmp_path / "out" / "page.html"
        write_explanation_page(path, answers, describe, title, model, **options)
        assert [file.name for file in path.parent.iterdir()] == [path.name]
        return Page(path)

    return write


def test_a_card_says_what_the_result_says(write, answer, classifier):
    result = answer(make_image(3))
    page = write([("photos/bird.png", result), ("other.png", answer(make_image(4)))], top_classes=2)
    card, _ = page.find("article")
    assert card["attributes"]["data-label"] == result["labels"][0]["label"]
    (name,) = page.find("h2", card)
    assert name["text"] == "photos/bird.png"
    labels, bars = page.find("li", page.find("ol", card)[0]), page.find("i", page.find("ol", card)[0])
    assert len(labels) == len(bars) == 2
    for label, bar, entry in zip(labels, bars, result["labels"]):
        words = [entry["label"], *(["unseen"] if not entry["seen"] else []), f"{100 * entry['score']:.0f} %"]
        assert label["text"].split() == " ".join(words).split()
        assert bar["attributes"]["style"] == f"width: {100 * entry['score']:.1f}%"
    (heading,) = page.find("h3", card)
    assert heading["text"] == f"What sets it apart from {result['labels'][1]['label']}"
    attributes = page.find("li", page.find("ul", card)[0])
    assert len(attributes) == 4
    for attribute, entry in zip(attributes, result["attributes"]):
        number = f"{entry['contribution']:+.2f}".replace("-", "−")
        against = ", against it" if entry["contribution"] < 0 else ""
        assert attribute["text"] == f"{classifier.in_words(entry)}{against} {number}"


def test_places_are_the_numbers_of_the_grid_on_the_crop(write, answer):
    image = make_image(1, 40, 30)
    result = answer(image)
    page = write([("bird.png", result)])
    for attribute, entry in zip(page.find("li", page.find("ul")[0]), result["attributes"]):
        grid = [[DIGITS.index(digit) for digit in row] for row in attribute["attributes"]["data-grid"].split("/")]
        expected = np.array(entry["attention"])
        np.testing.assert_allclose(np.array(grid) / 35, expected / expected.max(), atol=0.5 / 35 + 1e-9)
    (frame,) = page.find("div", class_="frame")
    crop = [float(number) for number in frame["attributes"]["data-crop"].split()]
    # The middle 30 × 30 pixels of 40 × 30.
    np.testing.assert_allclose(crop, [0.125, 0, 0.875, 1], atol=1e-3)
    assert frame["attributes"]["style"] == "--w: 40; --h: 30"
    (picture,) = page.find("img")
    kind, _, content = picture["attributes"]["src"].partition(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as shown:
        assert shown.size == (40, 30)


def test_a_single_candidate_is_set_apart_from_nothing(write, answer, classifier):
    (name, *_) = classifier.model.config.label2id
    page = write([("bird.png", answer(make_image(), candidate_labels=[name]))])
    assert page.find("h3")[0]["text"] == "What it shows"
    assert not page.find("i", page.find("ul")[0]) and "+0.00" not in page.source


@pytest.mark.parametrize("fit, shown", [({"fit": 0.314}, ["fit 0.31"]), ({"fit": None}, []), ({}, [])])
def test_fit_stands_where_there_is_one(write, answer, fit, shown):
    page = write([("bird.png", answer(make_image()) | fit)])
    assert [element["text"] for element in page.find("p", class_="fit")] == shown
    assert page.find("article")[0]["attributes"].get("data-fit") == ("0.314" if shown else None)


@pytest.mark.parametrize("ranks, shown", [(["Corvidae", "Aves"], ["Corvidae rank 93 %"]), ([None], []), ([], [])])
def test_a_rank_stands_where_it_is_surer_than_the_label(write, answer, ranks, shown):
    result = answer(make_image())
    first = result["labels"][0]["label"]
    result["ranks"] = [{"label": name or first, "score": 0.93, "depth": 1} for name in ranks]
    page = write([("bird.png", result)])
    assert [element["text"] for element in page.find("p", class_="rank")] == shown


def test_what_is_written_into_the_page_is_text(write, answer):
    result = answer(make_image()) | {"ranks": [{"label": "rank", "score": 0.9, "depth": 0}]}
    for entry in (*result["labels"], *result["attributes"], *result["ranks"]):
        entry["label"] = NASTY + entry["label"]
    answers = [(f"{NASTY}/{NASTY}.png", result), ("b.png", NASTY)]
    page = write(answers, describe=lambda attribute: attribute["label"], title=NASTY, model=NASTY)
    assert len(page.find("script")) == 1 and "alert" not in page.find("script")[0]["text"]
    assert page.find("h1")[0]["text"] == page.find("title")[0]["text"] == NASTY
    assert page.find("header")[0]["text"].count(f"By {NASTY}.") == 1
    assert page.find("h2")[0]["text"] == f"{NASTY}/{NASTY}.png"
    card, broken = page.find("article")
    assert card["attributes"]["data-label"] == result["labels"][0]["label"]
    names = [element["text"] for element in page.find("span", card, class_=None)]
    assert len(names) == 3 + 1 + 4 and all(name.startswith(NASTY) for name in names)
    assert page.find("p", class_="rank")[0]["text"] == f"{NASTY}rank rank 90 %"
    assert page.find("h3")[0]["text"].endswith(result["labels"][1]["label"])
    assert page.find("p", broken)[0]["text"] == f"cannot be read: {NASTY}"
    # Nothing came into the tags, either.
    known = {"class", "style", "src", "alt", "decoding", "data-label", "data-score", "data-crop", "data-grid"}
    for element in page.elements:
        if card in element["within"] or element is card:
            assert set(element["attributes"]) <= known


def test_the_page_needs_nothing_else_and_runs_nothing_else(write, answer):
    page = write([("bird.png", answer(make_image()))])
    assert not re.search(r"https?:|//\w+\.|@import|url\(|<link|<iframe", page.source)
    (policy,) = page.find("meta", **{"http-equiv": "Content-Security-Policy"})
    digest = hashlib.sha256(page.find("script")[0]["text"].encode()).digest()
    assert policy["attributes"]["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{base64.b64encode(digest).decode()}'"
    )
    # Without the script it is a list: what only the script can do is hidden until it runs.
    hidden = [element for element in page.elements if "hidden" in element["attributes"]]
    assert [element["tag"] for element in hidden] == ["p", "div"]
    assert page.find("select", hidden[1]) and not page.find("button")


def test_a_file_name_need_not_be_text(write, answer):
    page = write([("photos/caf\udce9.png", answer(make_image())), ("\udcff.png", "it is empty (0 bytes)")])
    assert [element["text"] for element in page.find("h2")] == ["photos/caf\\xe9.png", "\\xff.png"]


def test_the_page_is_written_as_answers_come(write, answer, tmp_path):
    result, sizes = answer(make_image(0, 300, 300)), []

    def answers():
        for index in range(40):
            yield f"{index}.png", result
            sizes.append((tmp_path / "out" / "page.html.tmp").stat().st_size)

    assert len(write(answers()).find("article")) == 40
    assert sizes[-1] > sizes[len(sizes) // 2] > 100_000


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()])
def test_the_page_of_before_stays_if_there_is_no_new_one(write, answer, tmp_path, error):
    before = write([("bird.png", "it is empty (0 bytes)")]).source

    def answers():
        yield "bird.png", answer(make_image())
        raise error

    with pytest.raises(type(error)):
        write(answers())
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8") == before
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize(
    "size, shown", [((64, 48), (64, 48)), ((900, 450), (300, 150)), ((4, 3000), (1, 300)), ((640, 640), (300, 300))]
)
def test_a_thumbnail_is_small_whatever_it_shows(size, shown):
    noise = thumbnail(make_image(0, *size))
    assert len(noise) <= 24_000
    with Image.open(io.BytesIO(noise)) as image:
        assert image.format == "JPEG" and image.size == shown


def test_a_thumbnail_looks_like_the_image():
    ramp = np.broadcast_to(np.linspace(0, 255, 600, dtype=np.uint8)[None, :, None], (400, 600, 3))
    with Image.open(io.BytesIO(thumbnail(Image.fromarray(ramp.copy())))) as image:
        np.testing.assert_allclose(np.asarray(image)[100, :, 0], np.linspace(0, 255, 300), atol=4)


def test_a_thumbnail_tells_nothing_of_where_and_when(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "CameraMaker"
    make_image().save(tmp_path / "photo.jpg", exif=exif, comment=b"at home")
    with Image.open(tmp_path / "photo.jpg") as photo:
        assert photo.info["comment"] == b"at home" and photo.getexif()[0x010F] == "CameraMaker"
        content = thumbnail(photo.convert("RGB"))
    assert b"at home" not in content and b"CameraMaker" not in content and b"Exif" not in content
