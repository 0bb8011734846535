"""A data set of the Proposed Split release by its own files: 5 classes of 4 images, in the official formats."""

import logging

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from dedn_hf.data.load import check_gzsl_dataset, load_gzsl_dataset, load_images
from dedn_hf.data.official_files import read_mat
from dedn_hf.data.splits import fingerprint_split
from dedn_hf.data.word_vectors import compose_word_vectors

CLASSES = ["goat", "bag", "jet ski", "mug", "cat"]
TRAIN, VALIDATION, TEST = ["goat", "bag"], ["mug"], ["jet ski", "cat"]
PER_CLASS, NUM_ATTRIBUTES = 4, 6
NUM_IMAGES = len(CLASSES) * PER_CLASS
ATTRIBUTES = np.random.default_rng(0).uniform(0.1, 1, (len(CLASSES), NUM_ATTRIBUTES))


def label_of(loc):
    return (loc * 3) % len(CLASSES)


def path_of(loc):
    """Two roots, as aPY has."""
    return f"VOC2012/JPEGImages/2008_{loc:06}.jpg" if loc % 2 else f"yahoo_test_images/{loc}.jpg"


LOCS = range(1, NUM_IMAGES + 1)
SEEN = [loc for loc in LOCS if CLASSES[label_of(loc)] not in TEST]


def cells(values):
    array = np.empty((len(values), 1), dtype=object)
    array[:, 0] = [np.array([value]) for value in values]
    return array


def att_splits(**changes):
    column = lambda locs: np.array(locs, np.uint16)[:, None]  # noqa: E731
    content = {
        "allclasses_names": cells(CLASSES),
        "original_att": ATTRIBUTES.T,
        "att": (ATTRIBUTES / np.linalg.norm(ATTRIBUTES, axis=1, keepdims=True)).T,
        "trainval_loc": column(SEEN[3:]),
        "test_seen_loc": column(SEEN[:3]),
        "test_unseen_loc": column([loc for loc in LOCS if loc not in SEEN]),
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


def res101(**changes):
    labels = np.array([[label_of(loc) + 1] for loc in LOCS], np.float64)
    files = cells([rf"C:\Users\somebody\aPY\{path_of(loc)}".replace("/", "\\") for loc in LOCS])
    return {"features": np.zeros((8, NUM_IMAGES)), "image_files": files, "labels": labels} | changes


def save(folder, name, content):
    scipy.io.savemat(folder / name, content)


def save_73(folder, name, content):
    """As MATLAB's save(…, '-v7.3') does: HDF5 behind 512 bytes of its own, matrices by columns, cells by reference."""
    with h5py.File(folder / name, "w", userblock_size=512) as file:
        for key, values in content.items():
            if values.dtype == object:
                references = np.empty(values.T.shape, dtype=h5py.ref_dtype)
                for place, value in np.ndenumerate(values.T):
                    letters = np.array([[ord(letter)] for letter in value.item()], np.uint16)
                    cell = file.create_dataset(f"#refs#/{key}{place[1]}", data=letters)
                    cell.attrs["MATLAB_class"] = np.bytes_("char")
                    references[place] = cell.ref
                file[key] = references
            else:
                file[key] = values.T
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with open(folder / name, "r+b") as file:
        file.write(header)


@pytest.fixture
def tree(tmp_path):
    """The image of a loc has the colour (10 · loc, 0, 0)."""
    data_dir = tmp_path / "data"
    folder = data_dir / "xlsa17/data/APY"
    folder.mkdir(parents=True)
    for loc in LOCS:
        file = data_dir / "attributes/images" / path_of(loc)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (10 * loc, 0, 0)).save(file, format="PNG")
    for name, classes in {"trainclasses1": TRAIN, "valclasses1": VALIDATION, "testclasses": TEST}.items():
        (folder / f"{name}.txt").write_text("\n".join(classes) + "\n")
    (folder / "trainvalclasses.txt").write_text("\n".join(TRAIN + VALIDATION))
    save(folder, "att_splits.mat", att_splits())
    save(folder, "res101.mat", res101())
    return data_dir


@pytest.fixture
def folder(tree):
    return tree / "xlsa17/data/APY"


def load(tree, **options):
    return load_gzsl_dataset("xlsa17/APY", str(tree), **options)


def remove_lists(folder):
    for file in folder.glob("*.txt"):
        file.unlink()


def check_contents(dataset):
    assert dataset.name == "apy" and dataset.class_names == CLASSES
    assert dataset.seen_class_ids == [0, 1, 3] and dataset.validation_class_ids == [3]
    assert dataset.splits["test_seen"]["image_id"][:] == SEEN[:3]
    assert dataset.splits["trainval"]["image_id"][:] == SEEN[3:]
    for split in dataset.splits.values():
        for row in split:
            assert row["label"] == label_of(row["image_id"])
            assert row["image"].getpixel((0, 0)) == (10 * row["image_id"], 0, 0)
    np.testing.assert_allclose(dataset.class_attributes, ATTRIBUTES, atol=1e-6)
    parts = {part: dataset.splits[part]["image_id"][:] for part in ("trainval", "test_seen", "test_unseen")}
    assert dataset.split_sha256 == fingerprint_split(parts)
    assert dataset.split_name == "att_splits.mat of APY (xlsa17)"


def test_windows_paths_of_two_roots(tree):
    check_contents(load(tree))
    images = load_images("xlsa17/apy", str(tree))
    assert images["image_id"][:] == list(LOCS) and images[4]["image"].getpixel((0, 0)) == (50, 0, 0)


def test_unnamed_attributes_are_numbered_and_grouped_by_the_seen_classes(tree, caplog):
    with caplog.at_level(logging.WARNING):
        dataset = load(tree)
    assert dataset.attribute_names == [f"attribute_{i}" for i in range(1, 7)]
    np.testing.assert_allclose(dataset.word_vectors, ATTRIBUTES[[0, 1, 3]].T, atol=1e-6)
    assert sorted(i for group in dataset.attribute_groups.values() for i in group) == list(range(6))
    assert len(dataset.attribute_groups) == 4
    assert "does not name the 6 attributes" in caplog.text
    # What is unknown of them is the same with random vectors, and unseen classes do not matter.
    groups = load(tree, num_groups=2).attribute_groups
    random = load(tree, num_groups=2, word_vectors="random")
    assert random.attribute_groups == groups and len(groups) == 2
    np.testing.assert_array_equal(random.word_vectors, compose_word_vectors(dataset.attribute_names))
    changed = ATTRIBUTES.copy()
    changed[[2, 4]] = 0.5
    save(tree / "xlsa17/data/APY", "att_splits.mat", att_splits(original_att=changed.T))
    assert load(tree, num_groups=2).attribute_groups == groups


@pytest.mark.parametrize("numbered", [False, True])
def test_named_attributes(tree, folder, numbered):
    names = ["has tail", "has snout", "shiny", "wet", "round", "2D boxy"]
    lines = [f"{i}\t{name}" if numbered else name for i, name in enumerate(names, 1)]
    (folder / "attributes.txt").write_text("\n".join(lines) + "\n")
    dataset = load(tree, word_vectors="random")
    assert dataset.attribute_names == names and dataset.notes == []
    with pytest.raises(FileNotFoundError, match=r"no word vectors for xlsa17/APY: .*attribute_vectors/apy\.npy"):
        load(tree)
    (tree / "attribute_vectors").mkdir()
    vectors = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    np.save(tree / "attribute_vectors/apy.npy", vectors)
    np.testing.assert_array_equal(load(tree).word_vectors, vectors)
    (folder / "attributes.txt").write_text("\n".join(names[1:]))
    with pytest.raises(ValueError, match=r"attributes\.txt must have a different name for each of the 6 .* has 5\."):
        load(tree)


def test_matlab_73(tree, folder):
    remove_lists(folder)
    columns = {
        "train_loc": np.array(SEEN)[:, None],
        "val_loc": np.array([[loc for loc in SEEN if label_of(loc) == 3]]),
    }
    columns["train_loc"] = np.array([[loc for loc in SEEN if label_of(loc) != 3]])
    save_73(folder, "att_splits.mat", att_splits(**columns))
    save_73(folder, "res101.mat", res101())
    check_contents(load(tree))


def test_matlab_73_without_h5py(folder, monkeypatch):
    save_73(folder, "res101.mat", res101())
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"MATLAB 7\.3 \(HDF5\).*pip install 'dedn-hf\[hdf5\]'.*save\(.*'-v7'\)"):
        read_mat(folder / "res101.mat", "labels", help="")


def test_a_damaged_matlab_73_file(folder):
    save_73(folder, "res101.mat", res101())
    content = (folder / "res101.mat").read_bytes()
    (folder / "res101.mat").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"res101\.mat cannot be read as a MATLAB file"):
        read_mat(folder / "res101.mat", "labels", help="")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_does_not_end_the_program(folder, compressed):
    """Of an element of a kind that there is not, and of numbers that would be complex, scipy makes a crash."""
    scipy.io.savemat(folder / "res101.mat", res101(), do_compression=compressed)
    content = (folder / "res101.mat").read_bytes()
    read_mat(folder / "res101.mat", "labels", "image_files", help="")
    for place in range(128, len(content), 1 if compressed else 8):
        damaged = bytearray(content)
        damaged[place] ^= 0xB1
        damaged[min(place + 1, len(content) - 1)] ^= 0x08
        (folder / "res101.mat").write_bytes(damaged)
        try:
            read_mat(folder / "res101.mat", "labels", "image_files", help="")
        except ValueError as error:
            assert "res101.mat" in str(error)


def test_a_damaged_length_does_not_end_the_program(folder):
    """Of flags and sizes of another length, of sparse matrices and of files that were cut, scipy makes one, too."""
    file = folder / "att_splits.mat"
    content = file.read_bytes()
    names = ("allclasses_names", "original_att", "trainval_loc", "test_seen_loc", "test_unseen_loc")
    damaged = [
        content[:place] + bytes([value]) + content[place + 1 :] for place in range(128, 900) for value in (0, 5)
    ]
    for changed in (*damaged, *(content[:end] for end in range(130, len(content), 7))):
        file.write_bytes(changed)
        try:
            read_mat(file, *names, help="")
        except ValueError as error:
            assert "att_splits.mat" in str(error)


def test_images_behind_a_link(tree, tmp_path):
    expected = load(tree)
    images = next(path for path in sorted(tree.iterdir()) if path.is_dir() and path.name != "xlsa17")
    images.rename(tmp_path / "elsewhere")
    images.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "round").symlink_to(images)
    assert load(tree).split_sha256 == expected.split_sha256


def test_without_class_lists_and_names(tree, folder):
    """As FLO comes: `att` alone, classes that are numbers or nothing."""
    remove_lists(folder)
    save(folder, "att_splits.mat", att_splits(original_att=None, allclasses_names=cells([1.0, 2.0, 3.0, 4.0, 5.0])))
    dataset = load(tree)
    assert dataset.class_names == ["1", "2", "3", "4", "5"] and dataset.seen_class_ids == [0, 1, 3]
    assert len(dataset.validation_class_ids) == 1 and any(
        "1 of the 3 seen ones were drawn" in n for n in dataset.notes
    )
    np.testing.assert_allclose(np.linalg.norm(dataset.class_attributes, axis=1), 1, atol=1e-6)
    save(folder, "att_splits.mat", att_splits(allclasses_names=None))
    assert load(tree).class_names == [f"class_{i}" for i in range(1, 6)]


def test_nested_names(tree, folder):
    nested = np.empty((5, 1), dtype=object)
    for place, name in enumerate(CLASSES):
        nested[place, 0] = cells([name])
    save(folder, "att_splits.mat", att_splits(allclasses_names=nested))
    check_contents(load(tree))
    nested[3, 0] = np.array([["a"], ["b"]], dtype=object)
    save(folder, "att_splits.mat", att_splits(allclasses_names=nested))
    with pytest.raises(ValueError, match=r"allclasses_names in .* must be a list of texts, but its entry 4 is none"):
        load(tree)


def test_scales_and_negative_class_attributes(tree, folder):
    save(folder, "att_splits.mat", att_splits(original_att=100 * ATTRIBUTES.T))
    np.testing.assert_allclose(load(tree).class_attributes, ATTRIBUTES / ATTRIBUTES.max(), atol=1e-6)
    unknown = ATTRIBUTES.copy()
    unknown[1, 2] = -1
    save(folder, "att_splits.mat", att_splits(original_att=unknown.T))
    dataset = load(tree)
    assert dataset.class_attributes[1, 2] == 0 and any(
        "-1 in 1 places is taken for unknown" in n for n in dataset.notes
    )
    embeddings = np.random.default_rng(0).normal(size=(5, 6)) / 10
    embeddings[:, 0] = np.abs(embeddings[:, 0])
    save(folder, "att_splits.mat", att_splits(original_att=embeddings.T))
    dataset = load(tree)
    np.testing.assert_allclose(dataset.class_attributes, embeddings, atol=1e-6)
    assert any("has negative class attributes" in note for note in dataset.notes)


def changed_locs(**changes):
    content = att_splits()
    return content | {key: change(content[key].astype(np.int64)) for key, change in changes.items()}


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "content, message",
    [
        (changed_locs(test_unseen_loc=lambda locs: locs + 100), r"test_unseen_loc.* names image 1\d\d"),
        (changed_locs(trainval_loc=lambda locs: locs - locs.min()), r"trainval_loc in .* has 0, but .* counts from 0"),
        (changed_locs(test_seen_loc=lambda locs: np.append(locs, locs[0])), r"test_seen_loc in .* has \d+ twice"),
        (
            changed_locs(trainval_loc=lambda locs: np.append(locs, att_splits()["test_seen_loc"][0])),
            r"is in trainval_loc and in test_seen_loc",
        ),
        (
            changed_locs(trainval_loc=lambda locs: np.append(locs, att_splits()["test_unseen_loc"][0])),
            r"trainval_loc and test_unseen_loc both have images of|is in trainval_loc and in test_unseen_loc",
        ),
        (changed_locs(trainval_loc=lambda locs: locs[1:]), r"1 of 20 images are in no part, such as \d+"),
        (att_splits(trainval_loc=np.array([[1.5]])), "trainval_loc in .* must hold whole numbers"),
        (att_splits(trainval_loc=cells(["one"])), "trainval_loc in .* must hold whole numbers"),
        (att_splits(original_att=None, att=None), "lacks original_att and att"),
        (
            att_splits(original_att=ATTRIBUTES),
            r"have shape \(5, 6\), but must have a column for each of the 5 classes",
        ),
        (
            att_splits(original_att=np.full((6, 5), np.nan)),
            "must be finite, but those of goat, bag, jet ski, … are not",
        ),
        (att_splits(original_att=np.zeros((6, 5))), "gives no attribute above 0 to goat"),
        (att_splits(allclasses_names=cells([*CLASSES[:4], "mug"])), "allclasses_names in .* has mug twice"),
        (
            att_splits(allclasses_names=cells(CLASSES[:4])),
            r"labels in .* go up to 5, but .* has 4 classes",
        ),
    ],
)
def test_broken_splits_are_named(tree, folder, content, message, listed):
    if not listed:
        remove_lists(folder)
    save(folder, "att_splits.mat", content)
    with pytest.raises(ValueError, match=message):
        load(tree)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": np.zeros((NUM_IMAGES, 1))}, "labels in .* has 0, but must count the classes"),
        (
            {"labels": np.full((NUM_IMAGES, 1), 1e18)},
            r"labels in .* has 1e\+18, but must count the classes of 20 images",
        ),
        ({"labels": np.ones((3, 1))}, "must hold a whole number for each of the 20 images .* but are 3 of type"),
        ({"labels": np.full((NUM_IMAGES, 1), np.nan)}, "must hold a whole number"),
        ({"labels": np.full((NUM_IMAGES, 1), 9)}, "go up to 9, but att_splits.mat has 5 classes"),
        ({"image_files": cells(["/"] * NUM_IMAGES)}, "has '/', which is no path of an image"),
        ({"image_files": cells([3.5] * NUM_IMAGES)}, "image_files in .* must be a list of texts, but its entry 1"),
    ],
)
def test_broken_lists_of_images_are_named(tree, folder, changes, message):
    save(folder, "res101.mat", res101(**changes))
    with pytest.raises(ValueError, match=message):
        load(tree)


def test_missing_and_ambiguous_images(tree):
    file = tree / "attributes/images" / path_of(3)
    other = tree / "copy" / path_of(3)
    other.parent.mkdir(parents=True)
    file.rename(other.with_suffix(".JPG"))
    check_contents(load(tree))
    other.with_suffix(".JPG").rename(other)
    file.write_bytes(other.read_bytes())
    with pytest.raises(
        ValueError, match=r"1 of the 20 images .* may be several files, such as C:.*2008_000003\.jpg: "
    ):
        load(tree)
    file.unlink()
    other.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 20 images in .*res101\.mat are not below .*2008_000003\.jpg"
    ):
        load(tree)
    # Feature maps need no image, and --on_error skip lists it.
    assert load(tree, check_files=False).splits["trainval"].num_rows == len(SEEN) - 3
    assert len(load_images("xlsa17/APY", str(tree), check_files=False)) == NUM_IMAGES


def test_an_image_of_two_objects_is_said(tree, folder):
    files = res101()["image_files"]
    files[4] = files[9]
    save(folder, "res101.mat", res101(image_files=files))
    assert any("names 1 images again" in note for note in load(tree).notes)


def test_names(tree):
    with pytest.raises(ValueError, match="cub is a data set with a reader of its own: say --dataset cub"):
        load_gzsl_dataset("xlsa17/cub", str(tree))
    with pytest.raises(FileNotFoundError, match=r"has no data set FLO; it has APY\."):
        load_gzsl_dataset("xlsa17/FLO", str(tree))
    for name in ("xlsa17", "xlsa17/", "xlsa17/../x"):
        with pytest.raises(ValueError, match=r"There is no data set .*xlsa17/NAME.* \(such as xlsa17/APY"):
            load_gzsl_dataset(name, str(tree))
    assert not check_gzsl_dataset("xlsa17/APY", str(tree)).problems
