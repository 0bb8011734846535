import json

import pytest

from dedn_hf.files import content_mark, content_marks, write_json


def test_numbers_that_json_does_not_know(tmp_path):
    content = {"H": float("nan"), "parts": [1.5, float("inf"), {"U": -float("inf"), "n": 3, "é": "ü"}], "none": None}
    write_json(tmp_path / "a" / "file.json", content)
    text = (tmp_path / "a" / "file.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"H": None, "parts": [1.5, None, {"U": None, "n": 3, "é": "ü"}], "none": None}
    assert "é" in text and text.endswith("}\n")


def test_file_stays_as_it_was_if_it_cannot_be_written(tmp_path):
    write_json(tmp_path / "file.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"new": object()})
    assert json.loads((tmp_path / "file.json").read_text()) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


def test_content_marks_follow_content_alone(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    marks = content_marks([tmp_path / name for name in "abcd"], "Reading")
    assert marks[0] == marks[1] == content_mark(b"one")
    assert marks[2] not in (None, marks[0])
    assert marks[3] is None
    assert content_marks([], "Reading") == []
