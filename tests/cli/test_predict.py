import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from launching import launch_script, run_script
from PIL import Image
from transformers import pipeline

import dedn_hf.cli.predict
from dedn_hf import prediction_formats
from dedn_hf.cli import main
from dedn_hf.cli.predict import ImageSearch
from dedn_hf.prediction_file import PredictionFile
from dedn_hf.registration import DEFAULT_MODEL

TASK = "zero-shot-attribute-classification"
COMMAND = [sys.executable, "-m", "dedn_hf", "predict"]


def save_photo(file, seed=0, width=30, height=20):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Seven photos, one of them in a folder below, and one that is none; the folder above is the working directory."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index in range(6):
        save_photo(folder / f"{index}.png", index, 30 + index)
    save_photo(folder / "more" / "6.jpg", 6)
    (folder / "4b.jpg").write_text("<html><title>404</title></html>")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture(scope="module")
def classifier():
    return pipeline(TASK, device="cpu")


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def run(*arguments):
    return main(["predict", *map(str, arguments)])


def test_file_says_what_the_pipeline_says(photos, classifier):
    assert run("photos", "--output", "birds.csv", "--top_k", 2, "--attributes", 2, "--batch_size", 3) == 0
    rows = read_csv("birds.csv")
    assert list(rows[0]) == [
        *("image", "label", "score", "seen", "error", "label_2", "score_2", "seen_2"),
        *("attribute", "attribute_score", "attribute_2", "attribute_score_2"),
    ]
    assert [row["image"] for row in rows] == [
        *(f"photos/{name}" for name in ("0.png", "1.png", "2.png", "3.png", "4.png", "4b.jpg", "5.png", "more/6.jpg"))
    ]
    for row in rows:
        if row["error"]:
            continue
        answer = classifier(row["image"], top_k=2, top_attributes=2, attributes_by="score")
        for suffix, label in zip(("", "_2"), answer["labels"]):
            assert row[f"label{suffix}"] == label["label"]
            assert float(row[f"score{suffix}"]) == pytest.approx(label["score"], abs=2e-6)
            assert row[f"seen{suffix}"] == ("true" if label["seen"] else "false")
        for suffix, attribute in zip(("", "_2"), answer["attributes"]):
            assert row[f"attribute{suffix}"] == attribute["label"]
            assert float(row[f"attribute_score{suffix}"]) == pytest.approx(attribute["score"], abs=2e-6)


def test_json_lines_have_the_same_keys(photos):
    assert run("photos", "--output", "birds.csv", "--top_k", 2) == 0
    assert run("photos", "--output", "birds.jsonl", "--top_k", 2) == 0
    for of_csv, of_json in zip(read_csv("birds.csv"), read_jsonl("birds.jsonl"), strict=True):
        assert list(of_csv) == list(of_json)
        assert of_csv["score"] == ("" if of_json["score"] is None else str(of_json["score"]))
        assert (of_json["seen"] in (True, False, None) and of_json["error"] is None) or of_json["label"] is None


def test_all_attributes_have_a_column_each(photos, classifier):
    assert run("photos/0.png", "--output", "birds.csv", "--attributes", "all") == 0
    (row,) = read_csv("birds.csv")
    names = classifier.model.config.attribute_names
    assert list(row) == ["image", "label", "score", "seen", "error", *names]
    for attribute in classifier("photos/0.png", top_attributes=len(names))["attributes"]:
        assert float(row[attribute["label"]]) == pytest.approx(attribute["score"], abs=2e-6)


def test_parquet_and_formats_of_other_programs(photos, classifier, capsys):
    options = ["photos", "--top_k", 2, "--attributes", "all"]
    assert run(*options, "--output", "birds.csv") == run(*options, "--output", "birds.parquet") == 0
    assert capsys.readouterr().err.endswith("8 images, 1 could not be read: birds.parquet\n")
    table, of_csv = pd.read_parquet("birds.parquet"), pd.read_csv("birds.csv")
    assert list(table.columns) == list(of_csv.columns)
    names = classifier.model.config.attribute_names
    assert np.array_equal(table[names], of_csv[names].astype("float32"), equal_nan=True)
    assert (table["label"].fillna("") == of_csv["label"].fillna("")).all()
    named = of_csv[of_csv["error"].isna()]

    options = ["photos", "--output", "out.json", "--format"]
    assert run(*options, "label-studio") == 0
    tasks = json.loads(Path("out.json").read_text())
    predictions = [task["predictions"][0] for task in tasks]
    assert [prediction["result"][0]["value"]["choices"] for prediction in predictions] == [[x] for x in named["label"]]
    assert [prediction["score"] for prediction in predictions] == named["score"].tolist()
    assert {prediction["model_version"] for prediction in predictions} == {"dedn-cub"}

    Path("out.json").unlink()
    assert run(*options, "fiftyone") == 0
    labels = json.loads(Path("out.json").read_text())["labels"]
    assert list(labels) == [os.path.abspath(image) for image in named["image"]]
    assert [target["label"] for target in labels.values()] == named["label"].tolist()
    assert run(*options, "fiftyone", "--resume") == 2
    assert "out.json exists, and is finished" in capsys.readouterr().err


def test_a_path_is_no_formula(photos, monkeypatch):
    monkeypatch.chdir(photos)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"+.png\n-.png\n@.png\n./=.png\n1.png\n")))
    assert list(ImageSearch(["-", "=.png"])) == ["./+.png", "./-.png", "./@.png", "./=.png", "1.png", "./=.png"]
    save_photo("=1+1.png")
    assert run("=1+1.png", "--output", "birds.csv") == run("=1+1.png", "--output", "birds.csv", "--resume") == 0
    (row,) = read_csv("birds.csv")
    assert row["image"] == "./=1+1.png" and os.path.samefile(row["image"], "=1+1.png")


def test_unreadable_images_have_a_row_that_says_why(photos, capsys):
    whole = (photos / "0.png").read_bytes()
    (photos / "1.png").write_bytes(whole[: len(whole) // 2])
    (photos / "2.png").write_bytes(b"")
    assert run("photos", "missing.jpg", "--output", "birds.csv") == 0
    errors = {row["image"]: row["error"] for row in read_csv("birds.csv") if row["error"]}
    assert list(errors) == ["photos/1.png", "photos/2.png", "photos/4b.jpg", "missing.jpg"]
    assert "truncated" in errors["photos/1.png"] and errors["missing.jpg"] == "No such file or directory"
    assert not any("0x" in error or "\n" in error for error in errors.values())
    for row in read_csv("birds.csv"):
        assert bool(row["error"]) == (row["label"] == row["score"] == row["seen"] == "")
    assert capsys.readouterr().err.splitlines() == ["9 images, 4 could not be read: birds.csv"]


def test_an_image_of_several_frames_is_said(photos, caplog):
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "green")]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    assert run("photos/0.png", "photos/moving.gif") == 0
    assert caplog.messages == ["photos/moving.gif has 2 frames: the first is taken."]


def test_status_if_no_image_could_be_read(photos, capsys):
    assert run("photos/4b.jpg", "missing.jpg") == 1
    out, err = capsys.readouterr()
    assert "cannot be read: No such file or directory" in out
    assert err.splitlines()[-1] == "2 images, 2 could not be read"


def test_table_for_a_person(photos, classifier, capsys):
    assert run("photos/0.png", "--top_k", 2, "--attributes", 1) == 0
    out, err = capsys.readouterr()
    answer = classifier("photos/0.png", top_k=2, top_attributes=1)
    lines = out.splitlines()
    assert lines[0].startswith("photos/0.png  ") and len(lines) == 3
    for line, label in zip(lines, answer["labels"]):
        seen = "seen" if label["seen"] else "unseen"
        assert line.removeprefix("photos/0.png").split() == [
            f"{100 * label['score']:.1f}", "%", seen, *label["label"].split()
        ]  # fmt: skip
    (reason,) = answer["attributes"]
    kind = "because" if reason["contribution"] > 0 else "against it"
    assert lines[2].strip() == f"{kind}: {classifier.in_words(reason)}"
    assert err == "1 image\n"


def test_what_is_no_image_is_counted_and_has_no_row(photos, capsys):
    (photos / "notes.txt").write_text("seven birds")
    (photos / ".hidden.png").write_bytes((photos / "0.png").read_bytes())
    (photos / "without_suffix").write_bytes((photos / "0.png").read_bytes())
    os.mkfifo(photos / "pipe.png")
    (photos / "link.png").symlink_to("nowhere.png")
    assert run("photos", "--output", "birds.csv") == 0
    images = [row["image"] for row in read_csv("birds.csv")]
    assert len(images) == 10 and {"photos/link.png", "photos/without_suffix"} < set(images)
    assert capsys.readouterr().err.splitlines() == [
        "left out 3 files that are no images, such as photos/.hidden.png",
        "10 images, 2 could not be read: birds.csv",
    ]


def test_photos_of_every_kind_have_a_row_or_a_word(photos, capsys):
    """As in a data set."""
    (photos / "raw.nef").write_bytes(b"II*\0" + bytes(50))
    (photos / "@eaDir").mkdir()
    (photos / "@eaDir" / "0.png").write_bytes((photos / "0.png").read_bytes())
    (photos / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    assert run("photos", "--output", "birds.csv") == 0
    errors = {row["image"]: row["error"] for row in read_csv("birds.csv")}
    assert errors["photos/phone.heic"].startswith("it is HEIC")
    assert not {name for name in errors if "eaDir" in name or name.endswith("nef")}
    assert capsys.readouterr().err.splitlines()[0] == (
        "left out 2 files that are no images, such as photos/@eaDir; raw files of cameras: 1, save them as JPEG or PNG"
    )
    assert list(ImageSearch(["photos/@eaDir"])) == ["photos/@eaDir/0.png"]  # named, it is searched


def test_folders_are_searched_once_each(photos):
    (photos / "more" / "loop").symlink_to(photos)
    (photos / "again").symlink_to(photos / "more")
    found = list(ImageSearch(["photos"]))
    assert (len(found) == 8 and found[-1] == "photos/again/6.jpg") or found[-1] == "photos/more/6.jpg"
    assert list(ImageSearch(["photos/1.png", "photos/1.png"])) == ["photos/1.png"] * 2


def test_paths_from_stdin(photos, monkeypatch):
    lines = io.TextIOWrapper(io.BytesIO(b"photos/1.png\n\nphotos/more\r\nphotos/0.png"))
    monkeypatch.setattr("sys.stdin", lines)
    assert run("-", "--output", "birds.csv") == 0
    assert [row["image"] for row in read_csv("birds.csv")] == ["photos/1.png", "photos/more/6.jpg", "photos/0.png"]


def test_no_images_at_all(photos, capsys):
    (photos.parent / "empty").mkdir()
    (photos.parent / "empty" / "notes.txt").write_text("none")
    assert run("empty", "--output", "birds.csv") == 2
    assert capsys.readouterr().err == (
        "error: there are no images in empty; left out a file that is no image: empty/notes.txt\n"
    )
    assert not os.path.exists("birds.csv")


@pytest.mark.parametrize(
    "name", ["line\nbreak.png", 'quo"te,comma.png', "=1+1.png", "ünï.png", os.fsdecode(b"\xe9.png")]
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_odd_names_are_kept_and_gone_on_after(photos, name, suffix):
    (photos / "0.png").rename(photos / name)
    file = f"birds.{suffix}"
    assert run("photos", "--output", file) == 0
    whole = Path(file).read_bytes()
    if suffix == "csv":
        with open(file, encoding="utf-8", errors="surrogateescape", newline="") as lines:
            images = [row["image"] for row in csv.DictReader(lines)]
    else:
        images = [row["image"] for row in read_jsonl(file)]
    assert sorted(images) == sorted(ImageSearch(["photos"])) and f"photos/{name}" in images
    for length in range(0, len(whole) + 1, 97):
        with open(file, "wb") as part:
            part.write(whole[:length])
        assert run("photos", "--output", file, "--resume") == 0
        assert Path(file).read_bytes() == whole
    assert run("photos/" + name) == 0


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_resumed_file_is_that_of_one_run(photos, suffix, capsys, monkeypatch):
    options = ["--batch_size", 3, "--top_k", 2, "--attributes", 3]
    assert run("photos", "photos/1.png", "--output", f"whole.{suffix}", *options) == 0
    whole = Path(f"whole.{suffix}").read_bytes()
    read = []
    read_image = dedn_hf.cli.predict.read_image
    monkeypatch.setattr(dedn_hf.cli.predict, "read_image", lambda *args: read.append(args[1]) or read_image(*args))
    for length in range(0, len(whole) + 1, 151):
        with open(f"part.{suffix}", "wb") as part:
            part.write(whole[:length])
        assert run("photos", "photos/1.png", "--output", f"part.{suffix}", *options, "--resume") == 0
        assert Path(f"part.{suffix}").read_bytes() == whole
        assert capsys.readouterr().err.endswith(f"9 images, 1 could not be read: part.{suffix}\n")
    read.clear()
    inode = os.stat(f"whole.{suffix}").st_ino
    assert run("photos", "photos/1.png", "--output", f"whole.{suffix}", *options, "--resume") == 0
    assert read == [] and os.stat(f"whole.{suffix}").st_ino == inode


def test_new_photos_are_added_to_a_finished_file(photos):
    assert run("photos", "--output", "birds.csv") == 0
    before = Path("birds.csv").read_text()
    save_photo(photos / "00.png", 9)
    assert run("photos", "--output", "birds.csv", "--resume") == 0
    after = Path("birds.csv").read_text()
    assert after.startswith(before) and after[len(before) :].startswith("photos/00.png,")


def check_refused(capsys, match, *arguments):
    before = Path("birds.csv").read_bytes() if os.path.isfile("birds.csv") else None
    assert run("photos", *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and match in err
    if before is not None:
        assert Path("birds.csv").read_bytes() == before


def test_what_cannot_be_gone_on_with_is_left_as_it_is(photos, capsys):
    assert run("photos", "--output", "birds.csv", "--top_k", 2) == 0
    capsys.readouterr()
    resume = ["--output", "birds.csv", "--resume"]
    check_refused(capsys, "birds.csv exists: go on with it by --resume", "--output", "birds.csv")
    check_refused(capsys, "other columns than this run (has 'label_2')", *resume)
    check_refused(capsys, "other columns than this run (lacks 'label_3')", *resume, "--top_k", 3)
    check_refused(capsys, "other columns than this run (lacks 'attribute')", *resume, "--top_k", 2, "--attributes", 1)
    write_classes("mine.csv", 1)
    check_refused(capsys, "which is no candidate now", *resume, "--top_k", 2, "--classes", "mine.csv")
    with open("birds.csv", "a") as file:
        file.write("photos/9.png,only two\n")
    check_refused(capsys, "row 10 of birds.csv is no prediction", *resume, "--top_k", 2)
    Path("birds.csv").write_text("my notes")
    check_refused(capsys, "birds.csv is no file of predictions", *resume)


def test_json_lines_of_another_run_are_left_as_they_are(photos, capsys):
    for content, match in (
        ('{"a": 1}\n', "lacks 'image', has 'a'"),
        ("[1]\n", "row 1 of birds.jsonl is no prediction"),
        ("{\n", "is no prediction"),
        ("x", "is no file of predictions"),
    ):
        Path("birds.jsonl").write_text(content)
        check_refused(capsys, match, "--output", "birds.jsonl", "--resume")
        assert Path("birds.jsonl").read_text() == content


def test_output_is_checked_before_anything_is_loaded(photos, capsys, monkeypatch):
    monkeypatch.setattr(dedn_hf.cli.predict, "load_classifier", None)
    check_refused(
        capsys,
        "birds.xlsx must end in .csv, .jsonl or .parquet, or in .json with a --format",
        "--output",
        "birds.xlsx",
    )
    check_refused(capsys, "there is no folder nowhere", "--output", "nowhere/birds.csv")
    (photos.parent / "folder.csv").mkdir()
    check_refused(capsys, "folder.csv is a folder", "--output", "folder.csv")
    monkeypatch.setattr(os, "access", lambda *args: False)
    check_refused(capsys, "birds.csv cannot be written", "--output", "birds.csv")


def write_classes(file, scale):
    rows = [
        "class,has_wing_color::blue,has_wing_color::red",
        f"blue one,{scale},0",
        f"red one,{0.2 * scale:g},{scale}",
    ]
    with open(file, "w") as table:
        table.write("\n".join(rows) + "\n")


@pytest.mark.parametrize("scale", [1, 100])
def test_classes_of_a_table_are_the_candidates(photos, classifier, scale):
    names = classifier.model.config.attribute_names[:2]
    with open("mine.csv", "w") as table:
        table.write(f"class,{names[0]},{names[1]}\none,{scale},0\nother,{0.25 * scale:g},{scale}\n")
    assert run("photos/0.png", "--classes", "mine.csv", "--output", "birds.csv", "--top_k", 3) == 0
    (row,) = read_csv("birds.csv")
    candidates = {"one": {names[0]: 1, names[1]: 0}, "other": {names[0]: 0.25, names[1]: 1}}
    answer = classifier("photos/0.png", candidate_labels=candidates)
    assert [row["label"], row["label_2"], row["label_3"]] == [*(label["label"] for label in answer["labels"]), ""]
    assert float(row["score"]) == pytest.approx(answer["labels"][0]["score"], abs=2e-6)
    assert row["seen"] == "false" and row["score_3"] == row["seen_3"] == ""


def test_attributes_of_a_table_may_be_written_otherwise(photos, classifier, capsys):
    one, other = classifier.model.config.attribute_names[:2]
    for names in ((one, other), (one.upper().replace(" ", "_"), f"{other}\u200b")):
        Path("mine.csv").write_text(f"class,{','.join(names)}\none,1,0\nother,0.25,1\n", encoding="utf-8")
        assert run("photos/0.png", "--classes", "mine.csv", "--output", f"{names[0]}.csv".replace(":", "")) == 0
    answers = [read_csv(f"{name}.csv".replace(":", "")) for name in (one, one.upper().replace(" ", "_"))]
    assert answers[0] == answers[1]
    assert "mine.csv: names that differ in case, spaces or the like, taken as those of the model: 2, such as" in (
        capsys.readouterr().err
    )


def test_attribute_scale_of_a_table_of_classes(photos, classifier, capsys):
    names = classifier.model.config.attribute_names[:2]
    Path("mine.csv").write_text(f"class,{names[0]},{names[1]}\none,5,0\nother,1,5\n")
    check_refused(capsys, "'5', the highest strength", "--classes", "mine.csv")
    assert run("photos/0.png", "--classes", "mine.csv", "--attribute_scale", 5) == 0
    assert "mine.csv: 2 classes, 2 attributes, strengths up to 5 on a scale from 0 to 5" in capsys.readouterr().err
    check_refused(capsys, "attribute_scale is 'five'", "--classes", "mine.csv", "--attribute_scale", "five")


def test_wrong_table_of_classes(photos, capsys, monkeypatch):
    Path("mine.csv").write_text("class,no such thing\none,1\n")
    check_refused(capsys, "no such thing", "--classes", "mine.csv", "--output", "birds.csv")
    assert not os.path.exists("birds.csv")
    monkeypatch.setattr(dedn_hf.cli.predict, "load_classifier", None)
    Path("mine.csv").write_text("class,a\none,high\n")
    check_refused(capsys, "mine.csv cannot be used: - mine.csv, line 2 (one)", "--classes", "mine.csv")
    Path("mine.csv").write_text("class,a\n")
    check_refused(capsys, "it has no classes", "--classes", "mine.csv")
    check_refused(capsys, "other.csv is missing", "--classes", "other.csv")


def test_wrong_model_and_device(photos, capsys, tmp_path):
    check_refused(capsys, "--device abc cannot be used", "--device", "abc")
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    check_refused(capsys, "is a model of type 'resnet'", "--model", str(tmp_path))
    (tmp_path / "config.json").unlink()
    assert run("photos", "--model", str(tmp_path)) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "IMAGES"),
        (["a.png", "--top_k", "0"], "'0' is no number from 1 on"),
        (["a.png", "--attributes", "some"], "'some' is no number from 1 on"),
        (["a.png", "--batch_size", "-1"], "'-1' is no number from 1 on"),
        (["a.png", "--attribute_scale", "5"], "name it with --classes"),
        (["a.png", "--resume"], "name it with --output"),
        (["a.png", "--format", "fiftyone"], "name it with --output"),
        (["a.png", "--format", "coco", "--output", "a.json"], "coco"),
        (["a.png", "--topk", "3"], "--topk"),
    ],
)
def test_wrong_arguments(arguments, match, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["predict", *arguments])
    err = capsys.readouterr().err
    assert exit.value.code == 2 and match in err and err.count("\n") == 1 and err.startswith("error: ")


def test_images_may_stand_on_both_sides_of_an_option(photos):
    assert run("photos/0.png", "--output", "birds.csv", "photos/1.png") == 0
    assert len(read_csv("birds.csv")) == 2


def test_help_and_wrong_calls_import_nothing_heavy(photos):
    (photos.parent / "mine.csv").write_text("class,a\none,high\n")
    code = (
        "import sys\n"
        "from dedn_hf.cli import main\n"
        "for arguments in (['--help'], ['photos', '--top_k', '0'], ['photos', '--output', 'a.txt'],"
        " ['photos/more/x/'], ['photos', '--classes', 'mine.csv']):\n"
        "    try:\n"
        "        main(['predict', *arguments]) if arguments != ['photos/more/x/'] else None\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), arguments\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_reader_that_stops_early(photos):
    for index in range(40):
        save_photo(photos / f"{index:03}.png", index)
    with subprocess.Popen(
        [*COMMAND, "photos", "--batch_size", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.readline().startswith(b"photos/")
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 141


@pytest.mark.slow
def test_killed_run_goes_on(photos):
    for index in range(150):
        save_photo(photos / f"{index:03}.png", index, 400, 300)
    assert subprocess.run([*COMMAND, "photos", "--output", "whole.csv"], capture_output=True).returncode == 0
    process = subprocess.Popen([*COMMAND, "photos", "--output", "part.csv"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not os.path.exists("part.csv") or Path("part.csv").read_text().count("\n") < 30:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole, part = Path("whole.csv").read_bytes(), Path("part.csv").read_bytes()
    assert whole.startswith(part) and len(part) < len(whole)
    assert subprocess.run([*COMMAND, "photos", "--output", "part.csv", "--resume"]).returncode == 0
    assert Path("part.csv").read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_number_of_images(tmp_path, suffix, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prediction_formats, "ROW_GROUP_SIZE", 200)
    (tmp_path / "photos").mkdir()
    save_photo("photos/photo.png", width=4, height=4)
    content = Path("photos/photo.png").read_bytes()
    for number in range(9_999):
        (tmp_path / "photos" / f"{number:05}.png").write_bytes(content)

    names = [f"attribute {number}" for number in range(20)]
    answer = {
        "labels": [{"label": "jay", "score": 0.75, "seen": True}],
        "attributes": [{"label": name, "score": 0.5, "contribution": 0.0} for name in names],
    }
    classifier = SimpleNamespace(
        model=SimpleNamespace(config=SimpleNamespace(attribute_names=names, label2id={"jay": 0}, class_parents={})),
        device=torch.device("cpu"),
        preprocess=lambda image: {"size": image.size},
        prepare_call=lambda **parameters: lambda inputs: [answer] * len(inputs),
    )
    monkeypatch.setattr(dedn_hf.cli.predict, "load_classifier", lambda *args: classifier)
    write, finish, held, count = PredictionFile.write, PredictionFile.finish, {}, 0

    def write_and_look(self, answers):
        nonlocal count
        write(self, answers)
        count += len(answers)
        if count in (2_000, 9_600):  # Of the last ones the names of files are let go.
            held[count], _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()

    def finish_and_look(self):
        finish(self)
        _, held["peak of the end"] = tracemalloc.get_traced_memory()

    monkeypatch.setattr(PredictionFile, "write", write_and_look)
    monkeypatch.setattr(PredictionFile, "finish", finish_and_look)
    tracemalloc.start()
    try:
        assert run("photos", "--output", f"birds.{suffix}", "--attributes", "all") == 0
    finally:
        tracemalloc.stop()
    assert held[9_600] - held[2_000] < 100_000
    assert held["peak of the end"] < held[2_000] + 1_000_000


@pytest.mark.slow
def test_two_processes_write_what_one_does(two_processes, photos, tmp_path):
    for index in range(70):
        save_photo(photos / f"{index:03}.png", index)
    command = ["-m", "dedn_hf", "predict", "photos", "--batch_size", "2"]

    def launch(name, num_processes, *options, **more):
        options = [*command, "--output", name, *options]
        return run_script(*options, num_processes=num_processes, folder=tmp_path / "log", **more)

    def num_rows():
        return Path("part.csv").read_bytes().count(b"\n") if os.path.exists("part.csv") else 0

    assert launch("whole.csv", 1) == (0, "78 images, 1 could not be read: whole.csv\n")
    whole = Path("whole.csv").read_bytes()
    status, printed = launch("two.csv", 2)
    assert status == 0 and printed.count("78 images, 1 could not be read: two.csv\n") == printed.count("images") == 1
    assert Path("two.csv").read_bytes() == whole

    # 64 images in a round.
    status, _ = launch("part.csv", 2, until=lambda: num_rows() > 1)
    assert status is None and 1 < num_rows() < 79 and whole.startswith(Path("part.csv").read_bytes())
    printed = launch_script(*command, "--output", "part.csv", "--resume", num_processes=2, folder=tmp_path / "log")
    assert Path("part.csv").read_bytes() == whole and "78 images" in printed

    status, printed = launch("part.csv", 2)
    assert status and printed.count("error: part.csv exists: go on with it by --resume") == 1
    assert Path("part.csv").read_bytes() == whole


def test_default_model_is_the_one_that_travels_with_the_package():
    assert dedn_hf.cli.predict.parse_arguments(["a.png"]).model == str(DEFAULT_MODEL)


def test_answers_of_a_person_and_what_to_ask_next(photos, classifier, capsys):
    observed = {"wing colour: blue": True, "has_bill_shape::hooked_seabird": False, "has_size::small_(5_-_9_in)": 0.25}
    answers = [f"--observed={name}={word}" for name, word in zip(observed, ("yes", "No", "0.25"))]
    assert run("photos/0.png", "--ask", 2, "--attributes", 312, *answers) == 0
    printed = capsys.readouterr().out
    expected = classifier("photos/0.png", observed=observed, ask=2, top_attributes=None)
    assert f"{100 * expected['labels'][0]['score']:5.1f} %" in printed
    assert expected["labels"] != classifier("photos/0.png")["labels"]
    for question in expected["ask"]:
        assert f"ask: {question['question']} ({question['gain']:.2g} bits)" in printed
    assert "blue wing (observed)" in printed and "bill shape: not hooked seabird (observed)" in printed
    assert printed.count("(observed)") == 3
    assert run("photos/0.png", "--output", "birds.csv", *answers) == 0
    assert float(read_csv("birds.csv")[0]["score"]) == pytest.approx(expected["labels"][0]["score"], abs=2e-6)


def test_questions_for_properties(photos, classifier, capsys):
    assert run("photos/0.png", "--ask", 2, "--ask_by", "property", "--observed", "wing colour: blue=yes") == 0
    printed = capsys.readouterr().out
    observed = {"has_wing_color::blue": True}
    questions = classifier("photos/0.png", observed=observed, ask=2, ask_by="property")["ask"]
    assert len(questions) == 2
    for question in questions:
        values = ", ".join(answer["label"] for answer in question["answers"][:6])
        assert f"ask: {question['question']} ({question['gain']:.2g} bits) {values}\n" in printed
    assert "What is the wing color?" not in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--observed", "blue wing"], "'blue wing' is no attribute with yes, no or a strength, as 'blue wing=yes'"),
        (["--observed", "blue wing=2"], "'blue wing=2' is no attribute with yes, no or a strength"),
        (["--observed", "=yes"], "'=yes' is no attribute with yes, no or a strength"),
        (
            ["--observed", "blue wing=yes", "--observed", "blue wing=no"],
            "--observed answers 'blue wing' more than once",
        ),
        (["--observed", "blue wings of a plane=yes"], "`observed` has 'blue wings of a plane', which is no attribute"),
        (["--ask_by", "property"], "--ask_by says how to ask: say how many questions with --ask"),
        (["--ask", "2", "--ask_by", "value"], "argument --ask_by: invalid choice: 'value'"),
        (["--ask", "2", "--output", "birds.csv"], "--ask is for somebody to answer: leave --output out"),
    ],
)
def test_answers_that_cannot_be_taken(photos, capsys, arguments, message):
    try:
        status = run("photos/0.png", *arguments)
    except SystemExit as stop:
        status = stop.code
    assert status == 2 and message in capsys.readouterr().err
    assert not Path("birds.csv").exists()


CLASSES = "class,parent,wing color: blue,crown color: red\nblue bird,{},1,0\nred bird,{},0,1\nbird,,0.5,0.5\n"


def test_ranks_stand_in_a_file_and_in_the_table(photos, classifier, capsys):
    Path("birds.csv").write_text(CLASSES.format("painted bird", "painted bird"))
    assert run("photos", "--classes", "birds.csv", "--output", "names.csv", "--top_k", 3, "--attributes", 1) == 0
    rows = read_csv("names.csv")
    assert list(rows[0])[-5:] == ["seen_3", "rank", "rank_score", "attribute", "attribute_score"]
    for row in rows:
        scores = {row[f"label{rank}"]: float(row[f"score{rank}"] or 0) for rank in ("", "_2", "_3")}
        if row["error"]:
            assert row["rank"] == row["rank_score"] == ""
            continue
        sums = scores | {"painted bird": scores["blue bird"] + scores["red bird"]}
        sure = [name for name in ("blue bird", "red bird", "bird", "painted bird") if sums[name] >= 0.8]
        assert row["rank"] == (sure[0] if sure else "")
        if sure:
            assert float(row["rank_score"]) == pytest.approx(sums[sure[0]], abs=2e-6)
    # All of them are birds.
    Path("birds.csv").write_text(CLASSES.format("bird", "bird"))
    assert run("photos/0.png", "--classes", "birds.csv", "--output", "names.jsonl") == 0
    (row,) = read_jsonl("names.jsonl")
    assert list(row) == ["image", "label", "score", "seen", "error", "rank", "rank_score"]
    assert row["rank"] == "bird" and row["rank_score"] == pytest.approx(1) and row["score"] < 0.8
    capsys.readouterr()
    assert run("photos/0.png", "--classes", "birds.csv") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "  rank    " in line]
    assert [line.split() for line in lines] == [["100.0", "%", "rank", "bird"]]


def test_no_ranks_where_no_class_has_a_parent(photos):
    assert run("photos/0.png", "--output", "names.csv") == 0
    assert list(read_csv("names.csv")[0]) == ["image", "label", "score", "seen", "error"]


def test_a_class_more_in_prose(photos, classifier, capsys):
    text = "a small red bird with a blue head and a heart"
    assert run("photos/0.png", "--describe", f"My bird: {text}", "--top_k", 500, "--output", "birds.csv") == 0
    (row,) = read_csv("birds.csv")
    candidates = dict.fromkeys(classifier.model.config.label2id) | {"My bird": text}
    labels = classifier("photos/0.png", candidates, top_k=None)["labels"]
    found = [row[key] for key in row if key == "label" or key.startswith("label_")]
    assert found[: len(labels)] == [label["label"] for label in labels] and "My bird" in found
    assert float(row["score"]) == pytest.approx(labels[0]["score"], abs=2e-6)
    err = capsys.readouterr().err
    assert "My bird: " in err and "blue crown" in err and "not read: heart" in err


def test_a_table_in_prose_and_one_more(photos, capsys):
    (photos.parent / "mine.csv").write_text(
        "class,description\nred one,a red bird\nblue one,a bird with a blue head\n"
    )
    assert run("photos/0.png", "--classes", "mine.csv", "--describe", "green: a green back", "--top_k", 9) == 0
    printed = capsys.readouterr()
    assert sum(printed.out.count(name) for name in ("  red one", "  blue one", "  green")) == 3
    assert "classes described in prose: 2" in printed.err and "green: green back" in printed.err


@pytest.mark.parametrize(
    "options, match",
    [
        (["--describe", "a red bird"], "is no name and text"),
        (["--describe", "a: red belly", "--describe", "a : blue belly"], "--describe names 'a' more than once"),
        (["--describe", "mine: a nice fellow"], "Class 'mine' is described by 'a nice fellow', of which nothing"),
    ],
)
def test_prose_that_is_none(photos, capsys, options, match):
    try:
        assert run("photos", *options) == 2
    except SystemExit as end:
        assert end.code == 2
    assert match in capsys.readouterr().err


def test_none_of_these_is_a_label_and_fit_a_column(photos, classifier, capsys):
    expected = classifier("photos/0.png", none_of_these=True, top_k=None)
    assert run("photos/0.png", "--none_of_these", "--top_k", 201) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "none of these" in line]
    assert f"{100 * (1 - expected['fit']):5.1f} %" in line
    assert run("photos", "--none_of_these", "--output", "birds.csv") == 0
    rows = {row["image"]: row for row in read_csv("birds.csv")}
    row = rows["photos/0.png"]
    assert row["label"] == expected["labels"][0]["label"]
    assert float(row["fit"]) == pytest.approx(expected["fit"], abs=1e-5)
    assert rows["photos/4b.jpg"]["fit"] == "" and rows["photos/4b.jpg"]["error"]
    before = Path("birds.csv").read_bytes()
    assert run("photos", "--none_of_these", "--output", "birds.csv", "--resume") == 0
    assert Path("birds.csv").read_bytes() == before
