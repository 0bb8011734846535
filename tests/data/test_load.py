import numpy as np
import pytest

from dedn_hf.data import GzslDataset, load, load_gzsl_dataset


@pytest.fixture(autouse=True)
def readers(monkeypatch):
    """Readers that tell what they were asked for, and give two attributes, and word vectors if there are."""

    def make(name, word_vectors):
        attributes = ["has_wing_color::red", "has_wing_color::blue"]
        return GzslDataset(name, {}, [], attributes, {}, None, [], [], "", "", word_vectors)

    def load_cub(data_dir, word_vectors=None):
        vectors = None
        if word_vectors is not None:
            vectors = np.load(word_vectors)
        return make(f"cub of {data_dir}", vectors)

    monkeypatch.setattr(load, "load_cub", load_cub)
    monkeypatch.setattr(load, "load_synthetic_birds", lambda: make("synthetic_birds", np.zeros((2, 64))))


def test_synthetic_birds_have_word_vectors_of_their_own():
    assert (load_gzsl_dataset("synthetic_birds").word_vectors == 0).all()


def test_word_vectors_of_a_file(tmp_path):
    np.save(tmp_path / "vectors.npy", np.ones((2, 5)))
    dataset = load_gzsl_dataset("cub", "folder", str(tmp_path / "vectors.npy"))
    assert dataset.name == "cub of folder" and dataset.word_vectors.tolist() == np.ones((2, 5)).tolist()


@pytest.mark.parametrize("name, data_dir", [("cub", "folder"), ("synthetic_birds", None)])
def test_random_word_vectors(name, data_dir):
    vectors = load_gzsl_dataset(name, data_dir, "random").word_vectors
    assert vectors.shape == (2, 64) and (vectors[0] != vectors[1]).any() and (vectors != 0).any()
    np.testing.assert_array_equal(vectors, load_gzsl_dataset(name, data_dir, "random").word_vectors)


def test_no_word_vectors():
    with pytest.raises(
        FileNotFoundError, match=r"folder/attribute_vectors/cub.npy does not exist.*--word_vectors FILE"
    ):
        load_gzsl_dataset("cub", "folder")


def test_no_such_data_set():
    with pytest.raises(ValueError, match="no data set 'flowers'; choose one of synthetic_birds, cub"):
        load_gzsl_dataset("flowers")


def test_no_folder():
    with pytest.raises(ValueError, match="name their folder with --data_dir"):
        load_gzsl_dataset("cub")


def test_synthetic_birds_take_no_file():
    with pytest.raises(ValueError, match=r"leave --word_vectors vectors.npy out"):
        load_gzsl_dataset("synthetic_birds", word_vectors="vectors.npy")
