from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from command_line import CommandFailed
from PIL import Image
from tiny_extraction import make_state_dict
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetModel

from dedn_hf.features import extraction, store_writer
from dedn_hf.features.store import FeatureMapStore
from dedn_hf.files import read_json, write_json


@pytest.fixture
def run(dedn, tmp_path, monkeypatch):
    """Runs the command on four images without split and attributes."""
    cub = tmp_path / "data/CUB_200_2011"
    generator = np.random.default_rng(0)
    for i, name in enumerate(["001.Auk", "001.Auk", "002.Bunting", "002.Bunting"], 1):
        path = cub / f"images/{name}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(path, format="WEBP")
    (cub / "classes.txt").write_text("1 001.Auk\n2 002.Bunting\n")
    (cub / "images.txt").write_text("1 001.Auk/1.jpg\n2 001.Auk/2.jpg\n3 002.Bunting/3.jpg\n4 002.Bunting/4.jpg\n")
    (cub / "image_class_labels.txt").write_text("1 1\n2 1\n3 2\n4 2\n")
    torch.manual_seed(0)
    backbone = tmp_path / "backbone"
    ResNetModel(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ).save_pretrained(backbone)
    CLIPImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(backbone)
    monkeypatch.setattr(store_writer, "SHARD_ROWS", 2)

    def run(**changes):
        arguments = {
            "dataset": "cub",
            "data_dir": tmp_path / "data",
            "backbone": backbone,
            "image_size": 32,
            "output_dir": tmp_path / "store",
            "num_workers": 0,
            "device": "cpu",
        }
        options = {key: value for key, value in (arguments | changes).items() if value is not None}
        dedn(
            "features",
            *(text for key, value in options.items() for text in (f"--{key}", *([] if value is True else [value]))),
        )

    return run


def test_store_of_images_without_split_or_attributes(run, tmp_path, capsys):
    run()
    store = FeatureMapStore(tmp_path / "store")
    assert store.image_ids.tolist() == [1, 2, 3, 4] and store.labels.tolist() == [0, 0, 1, 1]
    store.require(dataset="cub", class_names=["Auk", "Bunting"], backbone="backbone", image_size=32)
    assert store.metadata["class_names"] == ["Auk", "Bunting"]
    assert "4 feature maps" in capsys.readouterr().out


@pytest.mark.parametrize("finished", [True, False])
def test_store_that_was_made_when_classes_had_their_official_names(run, tmp_path, finished):
    run()
    expected = FeatureMapStore(tmp_path / "store")
    files = [tmp_path / "store/store.json", tmp_path / "store/request.json"]
    for file in filter(Path.is_file, files):
        write_json(file, read_json(file) | {"class_names": ["001.Auk", "002.Bunting"]})
    if not finished:
        if not files[1].is_file():
            content = read_json(files[0])
            write_json(files[1], {key: content[key] for key in content if key not in ("shards", "skipped")})
        files[0].unlink()
    run()
    store = FeatureMapStore(tmp_path / "store")
    assert [shard["sha256"] for shard in store.metadata["shards"]] == [
        shard["sha256"] for shard in expected.metadata["shards"]
    ]
    store.require(dataset="cub", class_names=["Auk", "Bunting"])
    with pytest.raises(ValueError, match=r"class_names\[0\] is '(001\.)?Auk', where 'Bunting' is asked for"):
        store.require(class_names=["Bunting", "Auk"])


def test_finished_store_is_verified(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setattr(extraction, "_PixelValues", None)  # nothing may be computed
    run()
    file = tmp_path / "store/shard-00001.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CommandFailed) as error:
        run()
    assert error.value.status == 2 and "shard-00001.arrow" in str(error.value)


def test_changed_images_are_computed_anew(run, tmp_path, monkeypatch, caplog, capsys):
    run()
    store = FeatureMapStore(tmp_path / "store")
    maps = [store[row].copy() for row in range(4)]
    changed = tmp_path / "data/CUB_200_2011/images/002.Bunting/3.jpg"
    Image.new("RGB", (40, 50), "red").save(changed, format="WEBP")
    caplog.clear()
    run()
    assert caplog.messages == [
        f"{store.path}: 1 of 4 images are computed anew, as they have changed since or were skipped: {changed}"
    ]
    assert "4 feature maps" in capsys.readouterr().out
    store = FeatureMapStore(tmp_path / "store")
    assert [np.array_equal(store[row], maps[row]) for row in range(4)] == [True, True, False, True]
    # A repaired image, with and without --on_error skip.
    for on_error in ("skip", "raise"):
        content = changed.read_bytes()
        changed.write_bytes(content[:50])
        with pytest.raises(CommandFailed, match=r"error: The image .*3\.jpg cannot be read"):
            run()
        run(on_error="skip")
        assert "3 feature maps" in (printed := capsys.readouterr().out) and "1 images skipped" in printed
        changed.write_bytes(content)
        run(on_error=on_error)
        assert "4 feature maps" in (printed := capsys.readouterr().out) and "skipped" not in printed
    # One that is missing.
    changed.unlink()
    with pytest.raises(CommandFailed, match=r"error: 1 of the 4 images .* do not exist: .*3\.jpg"):
        run()
    assert len(FeatureMapStore(tmp_path / "store")) == 4
    run(on_error="skip")
    assert "3 feature maps" in (printed := capsys.readouterr().out) and "1 images skipped" in printed


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 64}, "image_size is 32, where 64 is asked for"),
        ({"data_dir": "nowhere"}, "lacks classes.txt"),
        ({"backbone": "./nowhere"}, "nowhere"),
    ],
)
def test_errors_without_traceback(run, changes, message):
    run()
    with pytest.raises(CommandFailed) as error:
        run(**changes)
    assert str(error.value).startswith("error: ") and message in str(error.value)
    assert error.value.status == 2 and str(error.value).count("\n") == 1


def test_the_machine_decides_once(run, tmp_path, speeds, caplog):
    speeds |= {"native": True, "bfloat16": 14.7}
    run()
    assert caplog.messages == [
        "Computing in bfloat16: one batch had 14.7 images/s in bfloat16, 10 images/s in float32."
    ]
    assert FeatureMapStore(tmp_path / "store").metadata["compute_dtype"] == "bfloat16" and speeds["timed"] == [4]
    # The store is as it was, wherever it is gone on with.
    speeds["native"] = False
    run()
    run(bf16="auto")
    assert FeatureMapStore(tmp_path / "store").metadata["compute_dtype"] == "bfloat16" and speeds["timed"] == [4]
    run(output_dir=tmp_path / "other")
    assert "compute_dtype" not in FeatureMapStore(tmp_path / "other").metadata


@pytest.mark.parametrize(
    "given, expected, timed",
    [(True, "bfloat16", 1), ("true", "bfloat16", 1), ("yes", "bfloat16", 1), ("False", None, 0), ("no", None, 0)],
)
def test_bf16_as_people_type_it(run, tmp_path, speeds, caplog, given, expected, timed):
    speeds |= {"native": True, "bfloat16": 1.5, "float32": 10.7}
    run(bf16=given)
    assert FeatureMapStore(tmp_path / "store").metadata.get("compute_dtype") == expected
    slower = "`bf16` makes this slower here: 1.5 images/s in bfloat16, 10.7 images/s in float32. Set it to false."
    assert caplog.messages == [slower] * timed


FROM_HDF5 = {"backbone": None, "image_size": None, "num_workers": None, "device": None}


def test_hdf5_file(run, tmp_path, capsys):
    maps = np.random.default_rng(0).normal(size=(4, 5, 2, 2)).astype(np.float16)
    with h5py.File(tmp_path / "maps.h5", "w") as content:
        content["maps"], content["y"], content["wrong"] = maps, [1, 1, 2, 2], [1, 2, 1, 2]
    for file in tmp_path.glob("data/CUB_200_2011/images/*/*"):
        file.unlink()  # no image is needed
    options = FROM_HDF5 | {"from_hdf5": tmp_path / "maps.h5", "map_key": "maps"}
    with pytest.raises(CommandFailed, match=r"error: wrong in .*maps\.h5 differs .* in 2 of 4 rows"):
        run(**options, label_key="wrong")
    run(**options, label_key="y")
    store = FeatureMapStore(tmp_path / "store")
    np.testing.assert_array_equal(np.stack([store[row] for row in range(4)]), maps)
    printed = capsys.readouterr().out
    assert "4 feature maps of shape (5, 2, 2)" in printed
    assert "rows are in the order of the data set's own list of images: their labels fit, which cannot" in printed


def test_hdf5_file_whose_labels_fit_two_orders(run, tmp_path, capsys):
    """image_files swaps the images of each class, and the labels are the same."""
    maps = np.random.default_rng(0).normal(size=(4, 5, 2, 2)).astype(np.float16)
    with h5py.File(tmp_path / "maps.h5", "w") as content:
        content["maps"], content["y"] = maps, [1, 1, 2, 2]
    split = tmp_path / "data/xlsa17/data/CUB"
    split.mkdir(parents=True)
    cells = lambda values: np.array([[value] for value in values], dtype=object)  # noqa: E731
    files = ["001.Auk/2.jpg", "001.Auk/1.jpg", "002.Bunting/4.jpg", "002.Bunting/3.jpg"]
    scipy.io.savemat(split / "res101.mat", {"image_files": cells([f"/x/images/{file}" for file in files])})
    parts = {f"{part}_loc": [[1]] for part in ("trainval", "test_seen", "test_unseen")}
    scipy.io.savemat(split / "att_splits.mat", {"allclasses_names": cells(["001.Auk", "002.Bunting"]), **parts})
    for name in ("trainclasses1", "trainvalclasses"):
        (split / f"{name}.txt").write_text("001.Auk\n")
    (split / "valclasses1.txt").write_text("")
    (split / "testclasses.txt").write_text("002.Bunting\n")
    options = FROM_HDF5 | {"from_hdf5": tmp_path / "maps.h5", "map_key": "maps", "label_key": "y"}
    with pytest.raises(CommandFailed, match=r"error: y in .* alike, in which 4 of 4 rows .* --data_set_order"):
        run(**options)
    run(**options, data_set_order=True)
    run(**options, proposed_split=True, output_dir=tmp_path / "other")
    assert "rows are in the order of image_files in res101.mat" in capsys.readouterr().out
    for folder, order in (("store", [0, 1, 2, 3]), ("other", [1, 0, 3, 2])):
        store = FeatureMapStore(tmp_path / folder)
        np.testing.assert_array_equal(np.stack([store[row] for row in range(4)]), maps[order])
    with pytest.raises(CommandFailed, match="not allowed with argument"):
        run(**options, proposed_split=True, data_set_order=True)


def test_skipped_images_are_printed(run, tmp_path, capsys):
    missing, broken = (tmp_path / f"data/CUB_200_2011/images/{name}.jpg" for name in ("001.Auk/2", "002.Bunting/3"))
    missing.unlink()
    with pytest.raises(CommandFailed, match=r"error: 1 of the 4 images .* do not exist: .*001\.Auk/2\.jpg"):
        run()
    assert not (tmp_path / "store").exists()
    broken.write_text("no image")
    run(on_error="skip")
    printed = capsys.readouterr().out
    assert f"skipped: {missing}: " in printed and f"skipped: {broken}: " in printed
    assert "2 feature maps" in printed and "2 images skipped" in printed


def test_torchvision_state_dict(run, tmp_path, capsys):
    torch.save(make_state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(CommandFailed, match=r"error: There is no state dict .*nowhere\.pth"):
        run(backbone=None, torchvision_state_dict=tmp_path / "nowhere.pth")
    run(backbone=None, torchvision_state_dict=tmp_path / "resnet.pth")
    assert f"{tmp_path / 'store/backbone'}: the backbone" in capsys.readouterr().out
    run(backbone=tmp_path / "store/backbone", output_dir=tmp_path / "other")
    shards = [FeatureMapStore(tmp_path / name).metadata["shards"] for name in ("store", "other")]
    assert shards[0] == shards[1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"backbone": None}, "one of the arguments --backbone --torchvision_state_dict --from_hdf5 is required"),
        ({"torchvision_state_dict": "F"}, "not allowed with argument"),
        ({"image_size": None}, "--image_size must be given, too"),
        ({"image_size": 0}, "--image_size is 0; it must be at least 1"),
        ({"bf16": "maybe"}, "argument --bf16: it is auto, true or false, and not 'maybe'"),
        ({"num_workers": -1}, "--num_workers is -1; it must be at least 0"),
        ({"map_key": "maps", "id_key": "ids"}, "--map_key, --id_key: of no use without --from_hdf5"),
        (FROM_HDF5 | {"from_hdf5": "F"}, "--map_key and --label_key must be given, too"),
        (
            {"backbone": None, "from_hdf5": "F", "map_key": "m", "label_key": "y", "bf16": True},
            "--image_size, --num_workers, --device, --bf16: of no use with --from_hdf5",
        ),
    ],
)
def test_arguments_that_do_not_go_together(run, changes, message):
    with pytest.raises(CommandFailed) as error:
        run(**changes)
    assert message in str(error.value)
