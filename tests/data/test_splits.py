import pytest

from dedn_hf.data.splits import draw, fifth, fingerprint_split, image_id_of


def test_fingerprint_is_of_contents_and_not_of_their_order():
    split = {"trainval": [3, 1, 2], "test_seen": [4]}
    fingerprint = fingerprint_split(split)
    assert fingerprint == fingerprint_split({"test_seen": [4], "trainval": [1, 2, 3]})
    others = (
        {"trainval": [1, 2], "test_seen": [3, 4]},
        {"train": [3, 1, 2], "test_seen": [4]},
        {"trainval": [1, 2, 3]},
    )
    assert fingerprint not in map(fingerprint_split, others)


def test_image_ids_are_those_of_every_machine():
    # python -c "import hashlib; print(int(hashlib.sha256('bat/bat_10001.jpg'.encode()).hexdigest()[:16], 16) >> 1)"
    assert image_id_of("bat/bat_10001.jpg") == 5475093341890348443
    ids = {image_id_of(f"bat/{i}.jpg") for i in range(1000)}
    assert len(ids) == 1000 and all(0 <= image_id < 2**63 for image_id in ids)


def test_draw():
    names = [f"class {i}" for i in range(50)]
    drawn = draw(names, 0)
    assert sorted(drawn) == sorted(names) and drawn != names
    assert draw(reversed(names), 0) == drawn != draw(names, 1)
    assert draw(names[1:], 0) == [name for name in drawn if name != names[0]]


@pytest.mark.parametrize("count, held_out", [(0, 0), (1, 0), (2, 1), (3, 1), (7, 1), (8, 2), (10, 2), (60, 12)])
def test_fifth(count, held_out):
    assert fifth(count) == held_out
