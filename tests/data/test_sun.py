import os

import numpy as np
import pytest
import scipy.io
from PIL import Image
from real_data import DATA_DIR

from dedn_hf.data import sun
from dedn_hf.data.load import check_gzsl_dataset
from dedn_hf.data.official_files import fingerprint_names, mark_names
from dedn_hf.data.sun import load as load_sun
from dedn_hf.data.sun import load_images as load_sun_images
from dedn_hf.recipes import read_recipe

# Folder of the image tree → class. Neither images.mat nor image_files is in this order.
CLASSES = {
    "z/zoo": "zoo",
    "a/abbey": "abbey",
    "a/atrium/public": "atrium_public",
    "c/café": "café",
    "a/airport/airport": "airport_airport",
}
NAMES = sorted(CLASSES.values())
TRAIN, VALIDATION, TEST = ["abbey", "zoo"], ["café"], ["airport_airport", "atrium_public"]
NUM_ATTRIBUTES = 102
PATHS = [f"{folder}/sun_{letter * 5}.jpg" for letter in "abcdef" for folder in CLASSES]
# A loc of the split is a place in this list, from 1.
IMAGE_FILES = PATHS[3:] + PATHS[:3]
VOTES = np.random.default_rng(0).integers(0, 4, (len(PATHS), NUM_ATTRIBUTES)) / 3


def class_of(path):
    return CLASSES[path.rsplit("/", 1)[0]]


def cells(names):
    return np.array([[np.array([name])] for name in names], dtype=object)


def class_means(names):
    return np.stack([VOTES[[class_of(path) == name for path in PATHS]].mean(0) for name in names])


@pytest.fixture
def tree(tmp_path):
    """Image i of images.mat, from 1, has the colour (i, 0, 0)."""
    data_dir = tmp_path / "data"
    folder, split = data_dir / "SUNAttributeDB", data_dir / "xlsa17/data/SUN"
    split.mkdir(parents=True)
    for i, path in enumerate(PATHS, 1):
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 0, 0)).save(folder / "images" / path, format="PNG")
    scipy.io.savemat(folder / "images.mat", {"images": cells(PATHS)})
    scipy.io.savemat(folder / "attributes.mat", {"attributes": cells([f"attribute/ {i}" for i in range(102)])})
    scipy.io.savemat(folder / "attributeLabels_continuous.mat", {"labels_cv": VOTES})
    lists = {"trainclasses1": TRAIN, "valclasses1": VALIDATION, "testclasses": TEST}
    for file, names in {**lists, "trainvalclasses": VALIDATION + TRAIN}.items():
        (split / f"{file}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    locs = {path: loc for loc, path in enumerate(IMAGE_FILES, 1)}
    seen = [path for path in PATHS if class_of(path) not in TEST]
    parts = {
        "trainval_loc": [path for path in seen if "_fffff" not in path],
        "test_seen_loc": [path for path in seen if "_fffff" in path],
        "test_unseen_loc": [path for path in PATHS if path not in seen],
    }
    scipy.io.savemat(
        split / "att_splits.mat",
        {
            "allclasses_names": cells(NAMES),
            "original_att": class_means(NAMES).T,
            **{part: np.array([locs[path] for path in paths], np.uint16)[:, None] for part, paths in parts.items()},
        },
    )
    # Two machines, and a path of Windows.
    files = [f"/home/somebody/images/of/SUN//images/{path}" for path in IMAGE_FILES[:-1]]
    files.append("D:\\SUN\\images\\" + IMAGE_FILES[-1].replace("/", "\\"))
    scipy.io.savemat(split / "res101.mat", {"features": np.zeros((4, len(PATHS))), "image_files": cells(files)})
    return data_dir


@pytest.fixture
def load(tree):
    return lambda **kwargs: load_sun(tree, **kwargs)


def change_mat(file, **changes):
    content = {key: value for key, value in scipy.io.loadmat(file).items() if not key.startswith("__")}
    scipy.io.savemat(file, {key: value for key, value in (content | changes).items() if value is not None})


def test_a_loc_is_a_place_in_image_files(load):
    expected = {
        "trainval": lambda path: class_of(path) not in TEST and "_fffff" not in path,
        "validation_unseen": lambda path: class_of(path) in VALIDATION and "_fffff" not in path,
        "test_seen": lambda path: class_of(path) not in TEST and "_fffff" in path,
        "test_unseen": lambda path: class_of(path) in TEST,
    }
    splits = load().splits
    for part, belongs in expected.items():
        ids = {i for i, path in enumerate(PATHS, 1) if belongs(path)}
        assert set(splits[part]["image_id"]) == ids
        for row in splits[part]:
            assert row["image"].getpixel((0, 0)) == (row["image_id"], 0, 0)
            assert NAMES[row["label"]] == class_of(PATHS[row["image_id"] - 1])
    assert sorted(splits["train"]["image_id"][:] + splits["validation_seen"]["image_id"][:]) == sorted(
        set(splits["trainval"]["image_id"]) - set(splits["validation_unseen"]["image_id"])
    )


def test_attributes_of_single_images(load):
    votes = load().image_attributes
    assert sorted(votes) == list(range(1, len(PATHS) + 1))
    np.testing.assert_allclose([votes[image_id] for image_id in sorted(votes)], VOTES, rtol=1e-6)


def test_attributes_in_another_order_than_the_votes(load, tree, monkeypatch):
    assert any("has other names of attributes than the release" in note for note in load().notes)
    names = [f"attribute/ {i}" for i in range(NUM_ATTRIBUTES)]
    in_any_order = sorted(f"attribute{i}" for i in range(NUM_ATTRIBUTES))
    known = (fingerprint_names(names), fingerprint_names(in_any_order), mark_names(names))
    monkeypatch.setattr(sun, "KNOWN_NAMES", known)
    assert load().notes == []
    scipy.io.savemat(tree / "SUNAttributeDB/attributes.mat", {"attributes": cells(names[::-1])})
    first = rf"in another order \(number 1, '{names[-1]}', is another one there\)"
    with pytest.raises(ValueError, match=rf"attributes\.mat has the names of the release {first}"):
        load()


@pytest.mark.real_data
@pytest.mark.skipif(
    not (DATA_DIR / "attribute_vectors/sun_attributes.txt").is_file(), reason=f"no list of attributes in {DATA_DIR}"
)
def test_fingerprint_of_the_real_attributes():
    names = (DATA_DIR / "attribute_vectors/sun_attributes.txt").read_text(encoding="utf-8").splitlines()
    assert fingerprint_names(names) == sun.KNOWN_NAMES[0]
    assert mark_names(names) == sun.KNOWN_NAMES[2]


def test_class_side(load):
    dataset = load()
    assert dataset.name == "sun" and dataset.class_names == NAMES
    assert [NAMES[i] for i in dataset.seen_class_ids] == ["abbey", "café", "zoo"]
    assert [NAMES[i] for i in dataset.validation_class_ids] == ["café"]
    assert dataset.attribute_names[101] == "attribute/ 101"
    np.testing.assert_allclose(dataset.class_attributes, class_means(NAMES), atol=1e-6)
    assert dataset.split_name == "unknown split" and dataset.word_vectors is None


def test_groups_are_those_that_were_meant(load):
    groups = load().attribute_groups
    assert groups == read_recipe("sun").model["attribute_groups"]
    assert [len(indices) for indices in groups.values()] == [38, 27, 17, 20]
    assert sorted(index for indices in groups.values() for index in indices) == list(range(102))
    assert list(groups) == list(read_recipe("sun", "reference").model["attribute_groups"])


@pytest.mark.parametrize(
    "place", ["SUNAttributeDB", "SUNAttributeDB_Images/images", "SUNAttributeDB_Images", "images"]
)
def test_places_of_the_image_tree(load, tree, place):
    (tree / place).parent.mkdir(exist_ok=True)
    if place == "SUNAttributeDB":
        for folder in (tree / "SUNAttributeDB/images").iterdir():
            folder.rename(tree / place / folder.name)
    else:
        (tree / "SUNAttributeDB/images").rename(tree / place)
    assert load().splits["train"][0]["image"].size == (8, 6)


def test_images_need_neither_split_nor_attributes(tree):
    (tree / "xlsa17").rename(tree / "other")
    (tree / "SUNAttributeDB/attributes.mat").unlink()
    (tree / "SUNAttributeDB/attributeLabels_continuous.mat").unlink()
    images = load_sun_images(tree)
    assert list(images["image_id"]) == list(range(1, 31)) and images.features["label"].names == NAMES
    assert images[3]["image"].getpixel((0, 0)) == (4, 0, 0) and NAMES[images[3]["label"]] == "café"


@pytest.mark.parametrize(
    "file, message",
    [
        ("SUNAttributeDB/images.mat", r"images\.mat is missing.*cs\.brown\.edu"),
        ("SUNAttributeDB/attributes.mat", r"attributes\.mat is missing"),
        ("SUNAttributeDB/attributeLabels_continuous.mat", r"attributeLabels_continuous\.mat is missing"),
        ("xlsa17/data/SUN/res101.mat", r"res101\.mat is missing.*cannot prove.*xlsa17\.zip"),
        ("SUNAttributeDB/images/c/café/sun_ccccc.jpg", r"1 of the 30 images in .*c/café/sun_ccccc\.jpg"),
    ],
)
def test_missing_file(load, tree, file, message):
    (tree / file).unlink()
    with pytest.raises(FileNotFoundError, match=message):
        load()


def test_no_image_tree(load, tree):
    (tree / "SUNAttributeDB/images").rename(tree / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"None of the 30 images in .*SUNAttributeDB_Images"):
        load()
    assert load_sun_images(tree, check_files=False)["image_id"][:] == list(range(1, 31))


def test_missing_images_need_not_be_there(load, tree):
    splits = load().splits
    (tree / "SUNAttributeDB/images/c/café/sun_ccccc.jpg").unlink()
    unchecked = load(check_files=False).splits
    assert {name: split["image_id"][:] for name, split in unchecked.items()} == {
        name: split["image_id"][:] for name, split in splits.items()
    }


@pytest.mark.parametrize(
    "file, changes, message",
    [
        ("attributes.mat", {"attributes": cells("abc")}, r"attributes\.mat names 3 attributes, but SUN has 102"),
        ("attributes.mat", {"attributes": cells(["a"] * 102)}, "must be different, but a is there twice"),
        ("attributes.mat", {"attributes": None, "others": 1}, "lacks attributes"),
        ("images.mat", {"images": cells([*PATHS[:-1], PATHS[0]])}, "a/.* is there twice|z/.* is there twice"),
        ("images.mat", {"images": cells([*PATHS[:-1], "x.jpg"])}, "names 'x.jpg', but paths must be like"),
        ("attributeLabels_continuous.mat", {"labels_cv": VOTES[:-1]}, r"has shape \(29, 102\).* 30 images"),
        ("attributeLabels_continuous.mat", {"labels_cv": VOTES[:, :-1]}, r"has shape \(30, 101\).* 102 attributes"),
        ("attributeLabels_continuous.mat", {"labels_cv": VOTES * 2}, "must hold shares of votes"),
        ("attributeLabels_continuous.mat", {"labels_cv": VOTES[::-1]}, "original_att .*contradict each other"),
        (
            "attributeLabels_continuous.mat",
            {"labels_cv": VOTES * [[class_of(path) != "café"] for path in PATHS]},
            "gives no attribute above 0 to café",
        ),
    ],
)
def test_wrong_files(load, tree, file, changes, message):
    change_mat(tree / "SUNAttributeDB" / file, **changes)
    with pytest.raises(ValueError, match=message):
        load()


def test_image_files_of_another_data_set(load, tree):
    change_mat(tree / "xlsa17/data/SUN/res101.mat", image_files=cells(["/a/cat.jpg", *IMAGE_FILES[1:]]))
    with pytest.raises(FileNotFoundError, match=r"1 of the 30 images in .*such as /a/cat\.jpg"):
        load()


def test_image_files_of_a_part(load, tree):
    change_mat(tree / "xlsa17/data/SUN/res101.mat", image_files=cells(IMAGE_FILES[:-1]))
    with pytest.raises(ValueError, match="names 29 images, 29 of them different, but the data set has 30"):
        load()


def test_empty_class(load, tree):
    """Without an image, a class is not in images.mat, and only the split knows it."""
    kept = [i for i, path in enumerate(PATHS) if class_of(path) != "café"]
    folder, split = tree / "SUNAttributeDB", tree / "xlsa17/data/SUN"
    change_mat(folder / "images.mat", images=cells([PATHS[i] for i in kept]))
    change_mat(folder / "attributeLabels_continuous.mat", labels_cv=VOTES[kept])
    change_mat(split / "res101.mat", image_files=cells([path for path in IMAGE_FILES if class_of(path) != "café"]))
    with pytest.raises(ValueError, match="only the images have none, only the split has café"):
        load()


@pytest.mark.real_data
@pytest.mark.skipif(
    not (DATA_DIR / "xlsa17/data/SUN").is_dir(),
    reason=f"no xlsa17/data/SUN in {DATA_DIR}: set DEDN_DATA_DIR to the folder that holds it",
)
def test_real_split_over_stand_ins(tmp_path):
    """14,340 links to one image, under names of the official form: 20 of each class, in alphabetical order."""
    content = scipy.io.loadmat(DATA_DIR / "xlsa17/data/SUN/att_splits.mat")
    names = [str(cell.item()) for cell in content["allclasses_names"].ravel()]
    paths = [f"{name[0]}/{name.replace('_', '/', 1)}/sun_{i}.jpg" for name in names for i in range(20)]
    folder, split = tmp_path / "SUNAttributeDB", tmp_path / "xlsa17/data/SUN"
    split.mkdir(parents=True)
    for file in (DATA_DIR / "xlsa17/data/SUN").iterdir():
        (split / file.name).symlink_to(file)
    Image.new("RGB", (4, 4)).save(tmp_path / "image.jpg")
    for path in paths:
        (folder / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        os.link(tmp_path / "image.jpg", folder / "images" / path)
    scipy.io.savemat(split / "res101.mat", {"image_files": cells([f"/x/SUN/images/{path}" for path in paths])})
    # images.mat in another order than image_files.
    scipy.io.savemat(folder / "images.mat", {"images": cells(paths[::-1])})
    scipy.io.savemat(folder / "attributes.mat", {"attributes": cells([f"attribute {i}" for i in range(102)])})
    votes = content["original_att"].T.repeat(20, axis=0)[::-1]
    scipy.io.savemat(folder / "attributeLabels_continuous.mat", {"labels_cv": votes})

    dataset = load_sun(tmp_path)
    assert dataset.split_name == "Proposed Split v2 (xlsa17)"
    sizes = [len(dataset.splits[part]) for part in ("trainval", "test_seen", "test_unseen")]
    assert sizes == [10320, 2580, 1440]
    assert [len(dataset.class_names), len(dataset.seen_class_ids), len(dataset.validation_class_ids)] == [717, 645, 65]
    assert dataset.class_names == names
    locs = [14341 - image_id for image_id in dataset.splits["test_seen"]["image_id"]]
    assert sorted(locs) == sorted(content["test_seen_loc"].ravel().tolist())


def test_check_decodes_all_images_and_accounts_for_all_files(tree):
    report = check_gzsl_dataset("sun", str(tree), "random")
    assert not report.wrong and not report.ignored, str(report)
    damaged = tree / "SUNAttributeDB/images/a/abbey/sun_aaaaa.jpg"
    damaged.write_bytes(damaged.read_bytes()[:30])
    (damaged.parent / "more.png").write_bytes(b"")
    (damaged.parent / "Thumbs.db").touch()
    report = check_gzsl_dataset("sun", str(tree), "random")
    assert report.wrong["unreadable image"].paths == ["SUNAttributeDB/images/a/abbey/sun_aaaaa.jpg"]
    assert len(report.problems) == 1
    assert report.ignored["unlisted"].lines == ["SUNAttributeDB/images/a/abbey/more.png"]
    assert report.ignored["litter"].lines == ["SUNAttributeDB/images/a/abbey/Thumbs.db"]
    damaged.unlink()
    report = check_gzsl_dataset("sun", str(tree), "random")
    assert report.wrong["missing image"].lines == ["SUNAttributeDB/images/a/abbey/sun_aaaaa.jpg: it does not exist"]
