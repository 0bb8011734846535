import dataclasses

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from dedn_hf.data import GzslDataset, awa2, cub, folder, load_gzsl_dataset, sun, synthetic_birds
from dedn_hf.data.dataset import image_features
from dedn_hf.data.load import check_gzsl_dataset, describe_dataset, load_images
from dedn_hf.data.proposed_split import PROPOSED_SPLIT_NAME
from dedn_hf.data.word_vectors import load_word_vectors

MODULES = {"cub": cub, "sun": sun, "awa2": awa2, "folder": folder, "synthetic_birds": synthetic_birds}
OFFICIAL = ("cub", "sun", "awa2")


def make_dataset(name="cub", **changes):
    sizes = {"trainval": 5, "train": 2, "validation_seen": 1, "validation_unseen": 2, "test_seen": 3, "test_unseen": 4}
    splits = DatasetDict({part: Dataset.from_dict({"image_id": range(size)}) for part, size in sizes.items()})
    values = {
        "name": name,
        "splits": splits,
        "class_names": ["a", "b", "c"],
        "attribute_names": ["has_wing_color::red", "has_wing_color::blue"],
        "attribute_groups": {"wing": [0, 1]},
        "class_attributes": np.ones((3, 2), np.float32),
        "seen_class_ids": [0, 1],
        "validation_class_ids": [1],
        "split_name": "unknown split",
        "split_sha256": "f" * 64,
    }
    return GzslDataset(**values | changes)


@pytest.fixture(autouse=True)
def readers(monkeypatch):
    """Readers that tell what they were asked for, and give two attributes."""
    for name in OFFICIAL:
        monkeypatch.setattr(
            MODULES[name], "load", lambda folder, check_files, name=name: make_dataset(name, split_name=folder)
        )
    vectors = np.zeros((2, 64))
    birds = make_dataset("synthetic_birds", word_vectors=vectors)
    birds.splits["trainval"] = Dataset.from_dict({"label": [0, 1]})
    monkeypatch.setattr(synthetic_birds, "load", lambda folder, check_files: birds)


@pytest.fixture
def folder(tmp_path):
    for name in ("wren", "owl", "jay", "auk"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (4, 4)).save(tmp_path / f"images/{name}/{i}.png")
    (tmp_path / "classes.csv").write_text("class,red,blue,long tail\nwren,1,0,0\nowl,0,1,0\njay,0,0,1\nauk,1,1,0\n")
    return tmp_path


@pytest.mark.parametrize("name", [*OFFICIAL, "folder"])
def test_images_whose_files_need_not_exist(name, monkeypatch):
    asked = []
    for function in ("load", "load_images"):
        monkeypatch.setattr(
            MODULES[name], function, lambda *args, **options: asked.append((args, options)) or make_dataset()
        )
    load_images(name, "somewhere", check_files=False)
    load_gzsl_dataset(name, "somewhere", word_vectors="random", check_files=False)
    assert asked == [(("somewhere",), {"check_files": False})] * 2


def test_what_is_built_in_needs_no_store():
    with pytest.raises(ValueError, match="synthetic_birds is built in"):
        load_images("synthetic_birds", "somewhere")


def test_synthetic_birds_have_word_vectors_of_their_own():
    assert (load_gzsl_dataset("synthetic_birds").word_vectors == 0).all()


@pytest.mark.parametrize("name", OFFICIAL)
def test_word_vectors_of_a_file(tmp_path, name):
    np.save(tmp_path / "vectors.npy", np.ones((2, 5)))
    dataset = load_gzsl_dataset(name, "somewhere", str(tmp_path / "vectors.npy"))
    assert (dataset.name, dataset.split_name) == (name, "somewhere")
    assert dataset.word_vectors.tolist() == np.ones((2, 5)).tolist()


@pytest.mark.parametrize("name", OFFICIAL)
def test_default_word_vectors(tmp_path, name):
    (tmp_path / "attribute_vectors").mkdir()
    np.save(tmp_path / f"attribute_vectors/{name}.npy", np.ones((2, 3)))
    assert load_gzsl_dataset(name, str(tmp_path)).word_vectors.shape == (2, 3)


@pytest.mark.parametrize("name, data_dir", [("cub", "somewhere"), ("synthetic_birds", None)])
def test_random_word_vectors(name, data_dir):
    vectors = load_gzsl_dataset(name, data_dir, "random").word_vectors
    assert vectors.shape == (2, 64) and (vectors[0] != vectors[1]).any() and (vectors != 0).any()
    np.testing.assert_array_equal(vectors, load_gzsl_dataset(name, data_dir, "random").word_vectors)


@pytest.mark.parametrize("name", [*OFFICIAL, "folder"])
def test_no_word_vectors(name, monkeypatch):
    # Said before anything is read.
    monkeypatch.setattr(MODULES[name], "load", None)
    with pytest.raises(
        FileNotFoundError, match=rf"somewhere/attribute_vectors/{name}\.npy does not exist.*--word_vectors FILE"
    ):
        load_gzsl_dataset(name, "somewhere")


def test_no_such_data_set():
    with pytest.raises(
        ValueError, match="no data set 'flowers'; choose one of awa2, cub, folder, sun, synthetic_birds"
    ):
        load_gzsl_dataset("flowers")


def test_no_folder():
    with pytest.raises(ValueError, match="name their folder with --data_dir"):
        load_gzsl_dataset("cub")


def test_synthetic_birds_take_no_file():
    with pytest.raises(ValueError, match=r"leave --word_vectors vectors\.npy out"):
        load_gzsl_dataset("synthetic_birds", word_vectors="vectors.npy")


def test_only_a_folder_takes_a_number_of_groups():
    with pytest.raises(ValueError, match="'sun' has groups of attributes: leave --num_groups 3 out"):
        load_gzsl_dataset("sun", "somewhere", "random", num_groups=3)


def test_own_folder(folder):
    dataset = load_gzsl_dataset("folder", str(folder), "random", num_groups=2)
    assert dataset.name == "folder" and len(dataset.attribute_groups) == 2 and dataset.word_vectors.shape == (3, 64)
    (folder / "attribute_vectors").mkdir()
    np.save(folder / "attribute_vectors/folder.npy", np.eye(3))
    assert dataset.word_vector_source == "random"
    dataset = load_gzsl_dataset("folder", str(folder))
    assert len(dataset.attribute_groups) == 3 and dataset.word_vectors.shape == (3, 3)
    assert dataset.word_vector_source == "folder.npy"


def test_own_folder_with_a_sentence_embedding_model(folder, sentence_model):
    """It reads the descriptions of `attributes.csv`, and the words of the name where there is none."""
    plain = load_gzsl_dataset("folder", str(folder), str(sentence_model))
    assert plain.word_vector_source == sentence_model.name
    (folder / "attributes.csv").write_text(
        "attribute,group,description\nred,colour,a bright man made tail\nblue,colour,\nlong tail,tail,\n"
    )
    described = load_gzsl_dataset("folder", str(folder), str(sentence_model)).word_vectors
    assert not np.allclose(described[0], plain.word_vectors[0])
    np.testing.assert_array_equal(described[1:], plain.word_vectors[1:])
    np.testing.assert_allclose(
        described, load_word_vectors(sentence_model, ["a bright man made tail", "blue", "long tail"]), atol=1e-6
    )


def test_check_of_a_folder(folder):
    report = check_gzsl_dataset("folder", str(folder), "random", 2)
    assert not report.wrong and any("4 classes, 3 attributes" in line for line in report.understood)
    # What can be said without word vectors is said.
    report = check_gzsl_dataset("folder", str(folder))
    assert any("4 classes, 3 attributes" in line for line in report.understood)
    assert len(report.problems) == 1 and "There are no word vectors for folder" in report.problems[0]
    (folder / "classes.csv").unlink()
    assert check_gzsl_dataset("folder", str(folder), "random").problems == ["classes.csv is missing"]


@pytest.fixture
def sun_images(tmp_path, monkeypatch):
    """Four images of SUN, of which the lists name a fifth; the class b is unseen, and c has none to train on."""
    files = [tmp_path / f"images/{name}" for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg")]
    for number, file in enumerate(files[:4]):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number * 40, 0, 0)).save(file)
    features = image_features(["a", "b", "c"])
    rows = [{"image": str(file), "label": int("b/" in str(file)), "image_id": i} for i, file in enumerate(files)]
    monkeypatch.setattr(
        sun, "load_images", lambda folder, check_files: Dataset.from_list(rows, features=features), raising=True
    )
    splits = make_dataset().splits
    splits["trainval"] = Dataset.from_dict({"label": [0, 0]})
    dataset = make_dataset(
        "sun",
        splits=splits,
        seen_class_ids=[0, 2],
        validation_class_ids=[2],
        attribute_names=["red", "blue", "big"],
        class_attributes=np.array([[1, 0, 0.5], [1, 1, 0.5], [1, 0, 0.5]], np.float32),
        notes=["images.mat is odd"],
    )
    monkeypatch.setattr(sun, "load", lambda folder, check_files: dataset)
    return tmp_path


def test_check_of_a_benchmark(sun_images, caplog):
    (sun_images / "images/a/2.jpg").write_bytes((sun_images / "images/a/2.jpg").read_bytes()[:-30])
    (sun_images / "images/b/2.jpg").write_bytes(b"")
    (sun_images / "images/a/notes.txt").touch()
    (sun_images / "images/a/Thumbs.db").touch()
    Image.new("RGB", (8, 6)).save(sun_images / "images/a/more.jpg")
    report = check_gzsl_dataset("sun", str(sun_images), "random")
    assert report.problems[0] == "c" and "1.jpg" not in str(report.problems)
    assert report.wrong["missing image"].lines == ["images/b/3.jpg: it does not exist"]
    assert [line.partition(": ")[0] for line in report.wrong["unreadable image"].lines] == [
        "images/a/2.jpg",
        "images/b/2.jpg",
    ]
    assert report.wrong["unreadable image"].lines[1].endswith("it is empty (0 bytes)")
    assert {kind: finding.lines for kind, finding in report.ignored.items()} == {
        "other": ["images/a/notes.txt"],
        "unlisted": ["images/a/more.jpg"],
        "litter": ["images/a/Thumbs.db"],
    }
    without = check_gzsl_dataset("sun", str(sun_images), "random", check_files=False)
    assert without.wrong.keys() == report.wrong.keys() - {"missing image"}
    assert "images: 1 are not there; their feature maps are used" in without.understood
    odd, split = report.warnings["note"].lines
    assert odd == "images.mat is odd" and split.startswith("split: it is not the Proposed Split v2 (xlsa17)")
    assert not caplog.records
    assert report.warnings["twin classes"].lines == ["a = c"]
    assert report.warnings["constant attribute"].lines == ["red (1)", "big (0.5)"]
    assert report.warnings["attribute of unseen classes only"].lines == ["blue: b"]


def test_check_of_another_data_set(monkeypatch, sun_images):
    # A wrong call, not a wrong data set.
    with pytest.raises(ValueError, match="The data set 'sun' is read from files: name their folder with --data_dir"):
        check_gzsl_dataset("sun")

    def fail(data_dir, check_files):
        raise FileNotFoundError(f"{data_dir} lacks everything")

    monkeypatch.setattr(sun, "load", fail)
    report = check_gzsl_dataset("sun", str(sun_images), "random")
    assert report.problems == [f"{sun_images} lacks everything", "images/b/3.jpg: it does not exist"]
    monkeypatch.setattr(sun, "load_images", fail)
    assert check_gzsl_dataset("sun", str(sun_images), "random").problems == [f"{sun_images} lacks everything"]
    report = check_gzsl_dataset("synthetic_birds")
    assert not report.wrong and report.understood == describe_dataset(load_gzsl_dataset("synthetic_birds"))


def test_description():
    lines = describe_dataset(make_dataset("folder", word_vectors=np.ones((2, 7))))
    assert lines == [
        "classes: 3, of them 2 seen (1 for validation) and 1 unseen",
        "attributes: 2 in 1 groups: wing (2)",
        "images: 5 trainval, 2 train, 1 validation_seen, 2 validation_unseen, 3 test_seen, 4 test_unseen",
        f"split: unknown split, fingerprint {'f' * 64}",
        "word vectors: 2 of size 7",
    ]


def test_a_split_that_is_not_the_proposed_one_is_said_in_training_and_check(monkeypatch, caplog):
    (note,) = load_gzsl_dataset("cub", "somewhere", "random").notes
    assert "it is not the Proposed Split v2" in note and cub.CARD.split_sha256 in note
    assert "7057 trainval, 1764 test_seen, 2967 test_unseen: figures are not comparable" in note
    assert note in caplog.text
    monkeypatch.setattr(cub, "CARD", dataclasses.replace(cub.CARD, split_counts=(5, 3, 4)))
    (note,) = load_gzsl_dataset("cub", "somewhere", "random").notes
    assert "and the same numbers of images: figures" in note
    assert load_gzsl_dataset("cub", PROPOSED_SPLIT_NAME, "random").notes == []


def test_groups_of_a_recipe_go_over_the_data_sets_own():
    dataset = load_gzsl_dataset("cub", "somewhere", "random", attribute_groups={"a": [1], "b": [0]})
    assert dataset.attribute_groups == {"a": [1], "b": [0]}
    with pytest.raises(ValueError, match="no partition of the 2 attributes of cub"):
        load_gzsl_dataset("cub", "somewhere", "random", attribute_groups={"a": [1], "b": [2]})


@pytest.mark.parametrize("words, groups", [(None, {"all": [0, 1]}), ("random", None)])
def test_attributes_without_groups(monkeypatch, words, groups):
    """They are clustered by their word vectors, or one group where there are none."""
    dataset = make_dataset("synthetic_birds", attribute_groups=None)
    monkeypatch.setattr(synthetic_birds, "load", lambda folder, check_files: dataset)
    found = load_gzsl_dataset("synthetic_birds", word_vectors=words, num_groups=words and 2).attribute_groups
    assert sorted(found.values()) == [[0], [1]] if groups is None else found == groups
