import io
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import CommandFailed
from PIL import Image
from synthetic_model import SYNTHETIC_MODEL

import dedn_hf.data
import dedn_hf.images_dedn
from dedn_hf.data.synthetic_birds import load as load_synthetic_birds
from dedn_hf.recipes import read_recipe
from dedn_hf.training.inputs import prepare_inputs
from dedn_hf.training.protocol import build_model

RECIPE = read_recipe("synthetic_birds").model


@pytest.fixture(scope="module")
def birds(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return load_synthetic_birds(images_per_class=6, image_size=64, cache_dir=cache)


@pytest.fixture(scope="module")
def model_folder(birds, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = build_model(birds, range(110), birds.unseen_class_ids, **RECIPE | {"grid_size": 4})
    model.save_pretrained(folder)
    prepare_inputs(birds, config=RECIPE).image_processor.save_pretrained(folder)
    return folder


@pytest.fixture
def run(birds, model_folder, dedn, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dedn_hf.data, "load_gzsl_dataset", lambda *args, **kwargs: birds)
    monkeypatch.chdir(tmp_path)

    def run(*arguments, model=model_folder):
        dedn("explain", "--model", model, *arguments)
        return capsys.readouterr().out

    return run


def test_image_of_an_unseen_class(run, birds, tmp_path):
    printed = run("--dataset", "synthetic_birds", "--index", 7, "--top_classes", 3, "--top_attributes", 4)
    truth = birds.class_names[birds.splits["test_unseen"][7]["label"]]
    assert f"True class: {truth}, a class of which the model was never shown an image." in printed
    classes, attributes = printed.split("What sets ")
    assert classes.count("(seen)") + classes.count("(unseen)") == 3
    assert ", in points of their scores' difference:" in attributes
    # "+0.01  red wing": a number and words, not has_wing_color::red.
    lines = [line for line in attributes.splitlines() if line.startswith("  ")]
    assert len(lines) == 4 and "has_" not in attributes
    path = tmp_path / "synthetic_birds_test_unseen_7_explanation.png"
    assert str(path.name) in printed
    with Image.open(path) as picture:
        picture.verify()
        assert picture.size[0] == 1200


@pytest.mark.parametrize(
    "split, known",
    [("test_seen", "but this image was not in training"), ("trainval", "one of those it may have learned from")],
)
def test_image_of_a_seen_class(run, birds, split, known):
    printed = run("--dataset", "synthetic_birds", "--split", split, "--output", "out/picture.png")
    assert f"True class: {birds.class_names[birds.splits[split][0]['label']]}, a class that the model" in printed
    assert known in printed
    assert Path("out/picture.png").is_file()


def test_image_file_that_is_not_square(run, birds):
    image = birds.splits["test_unseen"][0]["image"]
    wide = Image.new("L", (200, 90))
    wide.paste(image.convert("L"), (70, 10))
    wide.save("bird.jpg")
    printed = run("bird.jpg")
    assert "True class" not in printed and "What it may be" in printed
    assert Path("bird_explanation.png").is_file()


def test_image_of_sixteen_bits(run, birds):
    grey = birds.splits["test_unseen"][0]["image"].convert("L")
    grey.save("bird.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save("fine.png")
    assert run("fine.png").replace("fine", "bird") == run("bird.png")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "name either an image file or a --dataset"),
        (["bird.png", "--dataset", "synthetic_birds"], "name either an image file or a --dataset"),
        (["bird.png"], "there is no image file bird.png"),
        (["--dataset", "synthetic_birds", "--top_attributes", "0"], "--top_attributes is 0"),
        (["--dataset", "synthetic_birds", "--output", "bird.jpg"], "must be a .png or .html file"),
        (["--dataset", "synthetic_birds", "--output", "page.html"], "is of image files: name them, or their folder"),
        (["a.png", "b.png"], "more than one image goes on a page: name it, as --output report.html"),
        (["."], "more than one image goes on a page"),
        (["-", "--output", "picture.png"], "more than one image goes on a page"),
        (["page.html", "--output", "page.html"], "is the image itself"),
        (["--dataset", "synthetic_birds", "--split", "test"], "invalid choice"),
    ],
)
def test_bad_arguments(run, arguments, message):
    with pytest.raises(CommandFailed) as error:
        run(*arguments)
    assert error.value.status == 2 and message in str(error.value) and str(error.value).count("\n") == 1


def test_other_errors_without_traceback(run, birds, tmp_path):
    with pytest.raises(CommandFailed, match=r"error: test_unseen has images from 0 to 119, and no 120"):
        run("--dataset", "synthetic_birds", "--index", 120)
    Path("text.jpg").write_text("no image")
    with pytest.raises(CommandFailed, match=r"error: text\.jpg cannot be read: it is no image"):
        run("text.jpg")
    Image.new("RGB", (64, 64)).save("bird.png")
    with pytest.raises(CommandFailed):
        run("bird.png", "--output", "./bird.png")
    with Image.open("bird.png") as image:
        assert image.size == (64, 64)
    build_model(birds, range(110), birds.unseen_class_ids, **RECIPE | {"backbone_config": None}).save_pretrained(
        tmp_path / "maps"
    )
    prepare_inputs(birds, config=RECIPE).image_processor.save_pretrained(tmp_path / "maps")
    with pytest.raises(CommandFailed, match="error: This model has no backbone"):
        run("bird.png", model=tmp_path / "maps")


@pytest.fixture
def photos(birds, tmp_path, monkeypatch):
    """Five photos, one of them in a folder below, and one that is none."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for index in range(5):
        name = f"{index}.png" if index < 4 else "more/4.jpg"
        birds.splits["test_unseen"][index]["image"].save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "2b.jpg").write_text("<html><title>404</title></html>")
    (tmp_path / "photos" / "notes.txt").write_text("none of them")


def names_on(page):
    return re.findall(r"<h2>(.*)<b>(.*)</b></h2>", Path(page).read_text(encoding="utf-8"))


def test_page_of_a_folder_and_of_files(run, photos, birds, capsys):
    run("photos", "photos/0.png", "gone.png", "--output", "out/page.html", "--top_classes", 2, "--top_attributes", 3)
    page = Path("out/page.html").read_text(encoding="utf-8")
    found = ["0.png", "1.png", "2.png", "2b.jpg", "3.png"]
    assert names_on("out/page.html") == [
        *(("photos/", name) for name in found),
        *(("photos/more/", "4.jpg"), ("photos/", "0.png"), ("", "gone.png")),
    ]
    assert "<h1>What 8 photos show</h1>" in page
    assert page.count('<p class="error">') == 2
    assert "cannot be read: it is a web page, as a download that failed leaves it" in page
    assert page.count("<ol ") == 6 and page.count('class="bar"') == 12 and page.count("<li data-grid=") == 18
    assert [path.name for path in Path("out").iterdir()] == ["page.html"]


def test_page_says_what_the_picture_says(run, photos, capsys):
    printed = run("photos/1.png")
    run("photos/1.png", "--output", "page.html")
    page = Path("page.html").read_text(encoding="utf-8")
    assert "<h1>What 1 photo shows</h1>" in page
    labels = re.findall(r"[\d.]+ %  (.+) \((seen|unseen)\)", printed)
    assert len(labels) == 5
    shown = re.findall(r'<li><span>(.+?)(?: <small class="unseen">(unseen)</small>)?</span>', page)
    assert [(name, "seen" if unseen == "" else unseen) for name, unseen in shown] == labels
    reasons = re.findall(r"  ([+-][\d.]+)  (.+?)(?:, for .+)?\n", printed)
    assert len(reasons) == 5
    for number, words in reasons:
        sign = "<i>, against it</i>" if number.startswith("-") else ""
        number = number.replace("-", "−")
        assert f'<span>{words}{sign}</span> <span class="number">{number}</span>' in page


def test_what_the_command_says_of_a_page(run, photos, capsys, model_folder, dedn):
    dedn("explain", "--model", model_folder, "photos", "--output", "page.html")
    said = capsys.readouterr().err.splitlines()
    assert said[-2:] == [
        "left out a file that is no image: photos/notes.txt",
        "6 images, 1 could not be read: page.html",
    ]
    assert f"By {model_folder.name}." in Path("page.html").read_text(encoding="utf-8")


def test_paths_from_stdin_go_on_a_page(run, photos, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"photos/3.png\nphotos/1.png\n")))
    run("-", "--output", "page.html")
    assert names_on("page.html") == [("photos/", "3.png"), ("photos/", "1.png")]


def test_status_of_a_page_if_no_image_could_be_read(run, photos):
    with pytest.raises(CommandFailed, match=r"1 image, 1 could not be read: page\.html") as error:
        run("photos/2b.jpg", "--output", "page.html")
    assert error.value.status == 1
    assert names_on("page.html") == [("photos/", "2b.jpg")]


def test_page_of_nothing_and_nowhere(run, photos, tmp_path, monkeypatch):
    Path("page.html").write_text("of before")
    with pytest.raises(CommandFailed, match=r"there are no images in empty; left out .*none\.txt") as error:
        Path("empty").mkdir()
        Path("empty/none.txt").write_text("")
        run("empty", "--output", "page.html")
    assert error.value.status == 2 and Path("page.html").read_text() == "of before"
    Path("folder.html").mkdir()
    with pytest.raises(CommandFailed, match="is a folder: name a file"):
        run("photos", "--output", "folder.html")


@pytest.mark.slow
def test_page_of_five_hundred_images(run, tmp_path, monkeypatch):
    """Noise, which no JPEG makes small."""
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(500):
        pixels = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"photos/{index:03}.jpg", quality=70)
    images, held, load = [], [], dedn_hf.images_dedn.load_any_image

    def load_and_count(*arguments):
        image = load(*arguments)
        images.append(weakref.ref(image))
        held.append(sum(reference() is not None for reference in images))
        return image

    monkeypatch.setattr(dedn_hf.images_dedn, "load_any_image", load_and_count)
    run("photos", "--output", "page.html", model=SYNTHETIC_MODEL)
    assert len(names_on("page.html")) == 500
    assert 5_000_000 < Path("page.html").stat().st_size < 20_000_000
    assert len(held) >= 500 and max(held) <= 4 * torch.get_num_threads()
