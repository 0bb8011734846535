"""Every file of a folder is read, or it is said why not."""

import io
from pathlib import Path

import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from dedn_hf.data.folder import load, load_images, read_folder
from dedn_hf.data.image_files import IGNORED, find_images, why_ignored
from dedn_hf.data.load import check_gzsl_dataset, load_gzsl_dataset
from dedn_hf.data.splits import image_id_of
from dedn_hf.training.dataset import PixelValueDataset


def picture(kind: str, seed: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 12), (seed, 40, 80)).save(content, kind)
    return content.getvalue()


@pytest.fixture
def tree(tmp_path):
    """Four classes of five images."""
    for k, name in enumerate(("wren", "owl", "jay", "auk")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            (tmp_path / f"images/{name}/{i}.png").write_bytes(picture("PNG", 50 * k + i))
    (tmp_path / "classes.csv").write_text("class,red,blue,big\nwren,1,0,0\nowl,0,1,0\njay,0,0,1\nauk,1,1,0\n")
    (tmp_path / "split.csv").write_text("class,split\nwren,seen\nowl,seen\njay,validation\nauk,unseen\n")
    return tmp_path


def paths(tree, name="wren"):
    return set(read_folder(tree).images[name]) - {f"{name}/{i}.png" for i in range(5)}


@pytest.mark.parametrize(
    "name, kind",
    [
        ("photo.JPG", "JPEG"),
        ("photo.Tiff", "TIFF"),
        ("photo", "JPEG"),
        ("photo.jpg_large", "JPEG"),
        ("photo.avif", "AVIF"),
        ("photo.mpo", "MPO"),
        ("photo.j2k", "JPEG2000"),
        ("photo.ppm", "PPM"),
        ("photo.qoi", "QOI"),
        ("photo.psd.png", "PNG"),
    ],
)
def test_images_by_name_or_by_content(tree, name, kind):
    (tree / "images/wren" / name).write_bytes(picture(kind, 200))
    assert paths(tree) == {f"wren/{name}"}
    report = check_gzsl_dataset("folder", str(tree), "random")
    assert not report.wrong and not report.ignored


def test_images_in_folders_of_a_class_are_read(tree):
    (tree / "images/wren/2019/may").mkdir(parents=True)
    (tree / "images/wren/2019/may/1.jpg").write_bytes(picture("JPEG"))
    before = {image_id_of(f"wren/{i}.png") for i in range(5)}
    ids = {row["image_id"] for row in load_images(tree) if row["label"] == 0}
    assert ids == before | {image_id_of("wren/2019/may/1.jpg")}


def test_links_that_go_round_are_searched_once(tree):
    folder = tree / "images/wren"
    (folder / "more").mkdir()
    (folder / "more/1.jpg").write_bytes(picture("JPEG"))
    (folder / "more/up").symlink_to("..")
    (folder / "self").symlink_to("self")
    (folder / "other").symlink_to("more")
    assert paths(tree) == {"wren/more/1.jpg"}
    ignored = read_folder(tree).ignored
    assert ignored == {"link": [folder / "more/up", folder / "other"], "broken link": [folder / "self"]}


@pytest.mark.parametrize(
    "name",
    [
        *("Thumbs.db", "THUMBS.DB", "desktop.ini", ".DS_Store", "._1.jpg", "__MACOSX", "@eaDir", "$RECYCLE.BIN"),
        *(".Trash-1000", "lost+found", "#recycle", "System Volume Information", "Icon\r"),
    ],
)
def test_litter_is_ignored_in_one_line(tree, name):
    for folder in ("images", "images/wren"):
        place = tree / folder / name
        if "." in name and not name.startswith((".Trash", "$")):
            place.write_bytes(picture("JPEG"))
        else:
            place.mkdir()
            (place / "1.jpg").write_bytes(picture("JPEG"))
    assert len(load_images(tree)) == 20
    report = check_gzsl_dataset("folder", str(tree), "random")
    assert list(report.ignored) == ["litter"] and len(report.ignored["litter"].lines) == 2 and not report.wrong
    assert sum("IGNORED" in line for line in str(report).splitlines()) == 1


def test_all_else_is_ignored_and_said(tree):
    for name in ("wren/.hidden.png", "wren/1.nef", "wren/1.mp4", "wren/1.txt", "wren/strange", "loose.png"):
        (tree / "images" / name).write_bytes(picture("PNG") if name.endswith("png") else b"nothing at all")
    (tree / "images/nothing").mkdir()
    (tree / "images/wren/1.cr2").write_bytes(picture("TIFF"))
    (tree / "images/wren/gone").symlink_to("nowhere")
    report = check_gzsl_dataset("folder", str(tree), "random")
    assert {kind: finding.lines for kind, finding in report.ignored.items()} == {
        "raw": ["images/wren/1.cr2", "images/wren/1.nef"],
        "outside": ["images/loose.png"],
        "other": ["images/wren/1.mp4", "images/wren/1.txt"],
        "no image": ["images/wren/strange"],
        "hidden": ["images/wren/.hidden.png"],
        "broken link": ["images/wren/gone"],
        "empty folder": ["images/nothing"],
    }
    assert not report.wrong and report.exit_status() == 0 and report.exit_status(strict=True) == 1


def test_every_start_says_what_may_have_been_meant(tree, caplog):
    (tree / "images/wren/1.nef").write_bytes(b"raw")
    (tree / "images/loose.png").write_bytes(picture("PNG"))
    (tree / "images/Thumbs.db").write_bytes(b"")
    for read in (load_images, lambda folder: load_gzsl_dataset("folder", folder, "random")):
        caplog.clear()
        read(tree)
        assert "1 left out, such as images/wren/1.nef: raw files of cameras: save them as JPEG" in caplog.text
        assert "such as images/loose.png: images that lie in no class's folder" in caplog.text
        assert "Thumbs" not in caplog.text


def test_links_to_images_that_are_gone(tree):
    link = tree / "images/wren/gone.jpg"
    link.symlink_to("/nowhere/gone.jpg")
    for read in (load, load_images):
        with pytest.raises(ValueError, match=r"links to them that lead nowhere: 1, such as images/wren/gone\.jpg"):
            read(tree)
        read(tree, check_files=False)
    report = check_gzsl_dataset("folder", str(tree), "random")
    (line,) = report.wrong["missing image"].lines
    assert line == "images/wren/gone.jpg: it is a link to /nowhere/gone.jpg, which does not exist"
    link.unlink()
    (tree / "images/tern").symlink_to("/nowhere/tern")
    assert read_folder(tree).problems == ["images/tern is a link to /nowhere/tern, which does not exist"]


@pytest.mark.parametrize("suffix, head", [(".heic", b"\0\0\0\x18ftypheic"), (".jxl", b"\xff\x0a")])
def test_what_needs_a_package_is_an_image_with_or_without_it(tree, suffix, head):
    """Otherwise the split would depend on what is installed."""
    for name in (f"1{suffix}", "2"):
        (tree / "images/wren" / name).write_bytes(head + bytes(50))
    assert paths(tree) == {f"wren/1{suffix}", "wren/2"}
    report = check_gzsl_dataset("folder", str(tree), "random")
    assert len(report.wrong["unreadable image"].lines) == 2


def test_emptied_classes(tree, caplog):
    for i in range(5):
        (tree / f"images/jay/{i}.png").unlink()
        (tree / f"images/auk/{i}.png").unlink()
    assert read_folder(tree).problems == ["split.csv, line 4: jay is validation, but images/jay has no images"]
    (tree / "split.csv").unlink()
    (tree / "images/tern").mkdir()
    (tree / "images/tern/1.png").write_bytes(picture("PNG"))
    (tree / "classes.csv").write_text("class,red,blue,big\nwren,1,0,0\nowl,0,1,0\njay,0,0,1\nauk,1,1,0\ntern,1,1,1\n")
    for name in ("jay", "auk"):
        caplog.clear()
        said = "no split.csv: jay and 1 others have no images, taken as unseen and known by attributes only; if images"
        load_gzsl_dataset("folder", tree, "random")
        assert said in caplog.text
        assert said in check_gzsl_dataset("folder", str(tree), "random").warnings["note"].lines[0]
        (tree / "images" / name).rmdir()


@pytest.mark.parametrize("name", ["jay", "wren"])
def test_class_of_which_no_image_can_be_read(tree, name):
    for i in range(5):
        (tree / f"images/{name}/{i}.png").write_bytes(b"<html>")
    report = check_gzsl_dataset("folder", str(tree), "random")
    split = "validation" if name == "jay" else "seen"
    assert report.wrong["class without images"].lines == [f"{name} ({split})"]


def test_every_reason_is_explained(tmp_path):
    ignored = {}
    for name in (".x", "1.nef", "1.pdf", "1", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    assert find_images(tmp_path, ignored) == [] and ignored.keys() < IGNORED.keys()
    assert why_ignored(tmp_path / "none.jpg") is None and why_ignored(Path("none.txt")) == "other"


@pytest.mark.parametrize("content", [b"", b"<html>", picture("PNG")[:45]])
def test_a_bad_image_is_named_by_what_reads_pixels(tree, content):
    (tree / "images/auk/1.png").write_bytes(content)
    dataset = load(tree)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 4}, crop_size=4)
    images = PixelValueDataset(dataset.splits["test_unseen"], processor)
    with pytest.raises(ValueError, match=r"images/auk/1\.png cannot be read: .*--check` finds all such images"):
        [images[i] for i in range(len(images))]
