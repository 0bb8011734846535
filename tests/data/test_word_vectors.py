import hashlib
import pickle
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import cached_assets_path
from safetensors.torch import save_file
from transformers import AutoModel, BertConfig, BertModel, BertTokenizerFast

from dedn_hf.data import word_vectors
from dedn_hf.data.word_vectors import compose_word_vectors, load_word_vectors


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_attributes_share_their_words():
    red_wing, red_tail, blue_tail, long_leg = compose_word_vectors(
        ["has_wing_color::red", "has_tail_color::red", "has_tail_color::blue", "has_leg_length::long"], size=256
    )
    assert cosine(red_wing, red_tail) > 0.5
    assert cosine(red_tail, blue_tail) > 0.5
    assert cosine(red_wing, blue_tail) < cosine(red_wing, red_tail)
    assert abs(cosine(red_wing, long_leg)) < 0.3


def test_an_attribute_is_the_sum_of_its_words():
    vectors = compose_word_vectors(["has_wing_color::red", "Wing", "color", "RED"], size=20)
    assert vectors.shape == (4, 20)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0], vectors[1:].sum(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, rtol=1e-6)


def test_a_word_has_the_same_vector_everywhere():
    signs = (compose_word_vectors(["red"], size=64) > 0).astype(np.uint8)
    assert np.packbits(signs).tobytes().hex() == hashlib.shake_256(b"red").hexdigest(8)
    np.testing.assert_array_equal(compose_word_vectors(["blue", "red"])[1], compose_word_vectors(["red"])[0])


def test_names_of_other_data_sets():
    vectors = compose_word_vectors(["man-made", "man made", "newskin", "has_bill_shape::curved_(up_or_down)"])
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert np.abs(vectors).sum(1).min() > 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"'--'.*rename"):
        compose_word_vectors(["red", "--"])
    with pytest.raises(ValueError, match="size"):
        compose_word_vectors(["red"], size=0)


NAMES = ["has_wing_color::red", "has_tail_color::red", "man-made", "has_bill::hooked"]


def write_vectors(path, lines, encoding="utf-8"):
    path.write_bytes("".join(line + "\n" for line in lines).encode(encoding))
    return path


def test_random():
    np.testing.assert_array_equal(load_word_vectors("random", NAMES), compose_word_vectors(NAMES))


@pytest.mark.parametrize("dtype, size", [("float64", 5), ("float16", 300), ("int32", 1)])
def test_npy_of_any_width(tmp_path, dtype, size):
    vectors = np.arange(1, 4 * size + 1).reshape(4, size).astype(dtype)
    vectors[2] = 0  # as SUN's "man-made"
    np.save(tmp_path / "vectors.npy", vectors)
    loaded = load_word_vectors(tmp_path / "vectors.npy", NAMES)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, vectors.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_safetensors(tmp_path, dtype):
    vectors = torch.arange(12).reshape(4, 3).to(dtype)
    save_file({"vectors": vectors}, tmp_path / "vectors.safetensors")
    assert load_word_vectors(str(tmp_path / "vectors.safetensors"), NAMES).tolist() == vectors.tolist()


def test_wrong_safetensors(tmp_path):
    save_file({"a": torch.ones(4, 3), "b": torch.ones(4, 3)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match=r"must hold a single tensor.*but holds 2: a, b"):
        load_word_vectors(tmp_path / "two.safetensors", NAMES)
    (tmp_path / "bad.safetensors").write_text("not at all")
    with pytest.raises(ValueError, match=r"bad\.safetensors is no safetensors file"):
        load_word_vectors(tmp_path / "bad.safetensors", NAMES)


@pytest.mark.parametrize("header", [[], ["8 3"]])
def test_glove_and_word2vec_text(tmp_path, caplog, header):
    lines = [
        *header,
        "the 9 9 9",
        "wing 1 0 0",
        "color 0 1 0",
        "Red 7 7 7",
        ". . . 8 8 8",
        "red 0 0 1",
        "RED 6 6 6",
        "Tail -1 0 0.5",
        "man 0.25 0 0",
        "made 0 1e-1 0",
        "bill 2 2 2",
        "größe 5 5 5",
    ]
    path = write_vectors(tmp_path / "vectors.txt", lines)
    with caplog.at_level("WARNING"):
        vectors = load_word_vectors(path, [*NAMES, "Größe", "newskin"])
    expected = [[1, 1, 1], [-1, 1, 1.5], [0.25, 0.1, 0], [2, 2, 2], [5, 5, 5], [0, 0, 0]]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert "lacks 2 of the 10 words in the attributes' names: hooked, newskin." in caplog.text
    assert "No word is left of newskin: their vectors are zero" in caplog.text


@pytest.mark.parametrize(
    "lines, message",
    [
        (["the 1 2 3", "red 1 2"], "line 2: 'red' must be followed by 3 numbers.*damaged or was cut off"),
        (["the 1 2 3", "red 1 2 x"], "line 2: 'red' must be followed by 3 numbers"),
        (["the 1 2 3", "a 1 2 3"], "none of the 8 words in the attributes' names, such as bill, color, hooked"),
        (["red nan 2 3"], "NaN or infinity"),
        (["red 0 0 0"], "all are zero"),
        (["{", "}"], "is no file of word vectors"),
        (["3 3", "\x00\x81\x92"], r"is no file of word vectors.*save_word2vec_format"),
    ],
)
def test_wrong_text(tmp_path, lines, message):
    path = write_vectors(tmp_path / "vectors.txt", lines, "latin-1")
    with pytest.raises(ValueError, match=message):
        load_word_vectors(path, NAMES)


def pickled(path):
    with open(path, "wb") as file:
        pickle.dump(np.arange(8.0).reshape(4, 2), file)


def pickled_with_another_ending(path):
    pickled(path)


def torch_saved(path):
    torch.save(torch.arange(8.0).reshape(4, 2), path)


def objects(path):
    array = np.empty(4, dtype=object)
    array[:] = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=True)


@pytest.mark.parametrize(
    "file, write",
    [("it's mine.pkl", pickled), ("v.dat", pickled_with_another_ending), ("v.pt", torch_saved), ("v.npy", objects)],
)
def test_pickles_are_refused_with_the_line_that_converts_one(tmp_path, file, write):
    write(tmp_path / file)
    with pytest.raises(ValueError, match=r"is a pickle, which is not read.*can run any program") as error:
        load_word_vectors(tmp_path / file, NAMES)
    command = str(error.value).splitlines()[-1].strip()
    assert command.startswith("python -c ")
    subprocess.run(shlex.split(command.replace("python", sys.executable, 1)), check=True)
    new_file = (tmp_path / file).with_suffix(".converted.npy")
    assert load_word_vectors(new_file, NAMES).tolist() == np.arange(8).reshape(4, 2).tolist()


def test_pickle_without_an_array_is_refused(tmp_path):
    """Nothing of it is run."""
    (tmp_path / "evil.pickle").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "evil").encode() + b"'\ntR.")
    with pytest.raises(ValueError, match="is a pickle"):
        load_word_vectors(tmp_path / "evil.pickle", NAMES)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("shape", [(3, 5), (4,), (4, 2, 2)])
def test_wrong_shape(tmp_path, shape):
    np.save(tmp_path / "vectors.npy", np.ones(shape))
    with pytest.raises(ValueError, match=rf"for each of the 4 attributes.*of shape {re.escape(str(shape))}"):
        load_word_vectors(tmp_path / "vectors.npy", NAMES)


def test_values_that_are_no_vectors(tmp_path):
    vectors = np.ones((4, 3))
    vectors[1, 2] = np.nan
    for content, message in (
        (vectors, "has_tail_color::red has NaN or infinity"),
        (np.zeros((4, 3)), "all are zero"),
        (np.array([["a"]] * 4), "one vector of numbers"),
    ):
        np.save(tmp_path / "vectors.npy", content)
        with pytest.raises(ValueError, match=message):
            load_word_vectors(tmp_path / "vectors.npy", NAMES)


@pytest.mark.parametrize("source", ["nowhere.npy", "some/where.txt", "some/where.pkl", "/a/b/c"])
def test_no_such_source(source):
    with pytest.raises(FileNotFoundError, match="it does not exist"):
        load_word_vectors(source, NAMES)


def test_sentence_embedding_model(sentence_model):
    """Padding has no part in a mean, and a description is read in place of a name."""
    vectors = load_word_vectors(str(sentence_model), NAMES)
    assert vectors.shape == (4, 8) and vectors.dtype == np.float32
    model = BertModel.from_pretrained(sentence_model).eval()
    with torch.inference_mode():
        expected = model(torch.tensor([[2, 9, 10, 3]])).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(vectors[2], expected.numpy(), atol=1e-6)
    described = load_word_vectors(sentence_model, NAMES, {"has_bill::hooked": "man-made"})
    assert not np.allclose(vectors[3], described[3])
    described_alone = load_word_vectors(sentence_model, ["x"], {"x": "man made"})
    np.testing.assert_allclose(described_alone[0], vectors[2], atol=1e-6)


def test_embeddings_are_kept(sentence_model, monkeypatch):
    """What a run began with is there when it is resumed, and no other model's or description's."""
    first = load_word_vectors(sentence_model, NAMES)
    loaded = []
    load = AutoModel.from_pretrained
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda name: loaded.append(name) or load(name))
    np.testing.assert_array_equal(load_word_vectors(sentence_model, NAMES), first)
    assert not loaded

    load_word_vectors(sentence_model, NAMES, {"has_bill::hooked": "bright red tail"})
    assert len(loaded) == 1
    torch.manual_seed(1)
    BertModel(BertConfig.from_pretrained(sentence_model)).save_pretrained(sentence_model)
    other = load_word_vectors(sentence_model, NAMES)
    assert len(loaded) == 2 and not np.allclose(other, first)

    kept = list(cached_assets_path("dedn-hf", namespace="word_vectors", subfolder="embedded").iterdir())
    assert {file.suffix for file in kept} == {".safetensors"}
    for file in kept:
        file.write_bytes(b"damaged")
    np.testing.assert_array_equal(load_word_vectors(sentence_model, NAMES), other)
    assert len(loaded) == 3


def test_a_cache_that_cannot_be_written_to_costs_time_only(sentence_model, monkeypatch):
    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(word_vectors, "cached_assets_path", refuse)
    assert load_word_vectors(sentence_model, NAMES).shape == (4, 8)


def test_folder_that_is_no_model(tmp_path):
    with pytest.raises(ValueError, match="is no sentence-embedding model that transformers can load"):
        load_word_vectors(tmp_path, NAMES)


@pytest.mark.parametrize(
    "file, content", [("model.safetensors", "damaged" * 100), ("tokenizer.json", '{"damaged": 1}')]
)
def test_model_with_a_damaged_file(sentence_model, file, content):
    (sentence_model / file).write_text(content)
    with pytest.raises(ValueError, match="is no sentence-embedding model that transformers can load"):
        load_word_vectors(sentence_model, NAMES)


def test_model_that_does_not_read_padded_text(sentence_model):
    tokenizer = BertTokenizerFast.from_pretrained(sentence_model, pad_token=None)
    tokenizer.save_pretrained(sentence_model)
    with pytest.raises(ValueError, match="does not give hidden states for padded text alone"):
        load_word_vectors(sentence_model, NAMES)
