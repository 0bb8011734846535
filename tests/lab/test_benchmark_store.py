import numpy as np
import pytest
from benchmark_store import format_store_benchmark, measure_epoch, run_store_benchmark, thin_out, write_random_store
from PIL import Image

from dedn_hf.data import load_gzsl_dataset
from dedn_hf.features.store import FeatureMapStore

SPLITS = {"a": "seen", "b": "seen", "c": "validation", "d": "unseen"}
IMAGES_PER_CLASS = 10


@pytest.fixture
def tree(tmp_path):
    folder = tmp_path / "own"
    for name in SPLITS:
        (folder / "images" / name).mkdir(parents=True)
        for index in range(IMAGES_PER_CLASS):
            Image.new("RGB", (2, 2)).save(folder / "images" / name / f"{index}.png")
    rows = ["class,red wing,long tail", "a,1,0", "b,0,1", "c,1,1", "d,0.5,0"]
    (folder / "classes.csv").write_text("\n".join(rows) + "\n")
    (folder / "split.csv").write_text("class,split\n" + "".join(f"{k},{v}\n" for k, v in SPLITS.items()))
    return folder


def load(tree):
    return load_gzsl_dataset("folder", str(tree), "random")


def test_thinned_out_data_set_keeps_every_nth_image(tree):
    whole, part = load(tree).splits, thin_out(load(tree), 3).splits
    for name, split in part.items():
        assert list(split["image_id"]) == [index for index in whole[name]["image_id"] if index % 3 == 0]
    assert 0 < len(part["trainval"]) < len(whole["trainval"])


def test_random_store_is_a_store_of_these_images(tree, tmp_path):
    dataset = load(tree)
    size = write_random_store(dataset, (8, 2, 2), tmp_path / "store")
    store = FeatureMapStore(tmp_path / "store")
    store.verify()
    assert store.shape == (8, 2, 2) and len(store) == len(SPLITS) * IMAGES_PER_CLASS
    assert size == pytest.approx(sum(file.stat().st_size for file in (tmp_path / "store").glob("*.arrow")) / 1e9)
    for split in dataset.splits.values():
        assert store.select(split["image_id"]).labels.tolist() == list(split["label"])
    zero = np.mean([store[row] == 0 for row in range(len(store))])
    assert 0.7 < zero < 0.95 and not np.array_equal(store[0], store[1])


def test_full_disk(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(ValueError, match=r"needs 0\.0 GB more, but the disk of .* has 0\.0 GB free"):
        write_random_store(load(tree), (8, 2, 2), tmp_path / "store")


def test_folder_that_exists_is_not_deleted(tree):
    with pytest.raises(ValueError, match="exists, and would be deleted"):
        run_store_benchmark(("folder", tree), [], (8, 2, 2), [1], tree)
    assert (tree / "classes.csv").is_file()


@pytest.mark.slow
def test_measured(tree, tmp_path):
    arguments = ["--use_cpu", "--per_device_train_batch_size", "3"]
    (whole,) = run_store_benchmark(("folder", tree), arguments, (8, 2, 2), [1], tmp_path / "work")
    assert not (tmp_path / "work").exists() and whole["images"] == 40
    trainval = len(load(tree).splits["trainval"])
    for kind in ("store", "memory"):
        assert whole[kind]["steps"] == -(-trainval // 3)
        assert 0 < whole[kind]["loading_seconds"] < whole[kind]["seconds"]
        assert 100 < whole[kind]["anonymous_mb"] < 5000
    assert "40" in format_store_benchmark([whole])


@pytest.mark.slow
def test_failing_training_is_an_error(tree):
    with pytest.raises(RuntimeError, match="ended with exit status"):
        measure_epoch(["--dataset", "folder", "--data_dir", str(tree), "--word_vectors", "random", "--use_cpu"])
