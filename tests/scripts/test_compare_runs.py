import json
import sys

import pytest
from PIL import Image


@pytest.fixture
def compare(script, monkeypatch):
    def compare(*arguments):
        monkeypatch.setattr(sys, "argv", ["scripts/compare_runs.py", *map(str, arguments)])
        script.main()

    return compare


def save_run(folder, height):
    folder.mkdir()
    figures = dict.fromkeys(("T1", "U", "S", "H"), height)
    results = {"protocol": "validation", "seeds": [0], "settings": {"height": height}, "validation": figures}
    (folder / "results.json").write_text(json.dumps(results))
    log = {"choose": [{"step": step, "eval_H": height * step / 20} for step in (10, 20)]}
    (folder / "training_log.json").write_text(json.dumps(log))
    return folder


def test_table_and_figure(compare, tmp_path, capsys):
    runs = [save_run(tmp_path / name, height) for name, height in (("high", 50.0), ("low", 20.0))]
    compare(*runs, "--figure", tmp_path / "figures/curves.png")
    output = capsys.readouterr().out
    assert "| high | – | 0 | 20 | 50.0 | 50.0 | 50.0 | 50.0 |" in output
    assert "| low | height 20.0 | 0 | 20 | 20.0 | 20.0 | 20.0 | 20.0 |" in output
    with Image.open(tmp_path / "figures/curves.png") as image:
        assert image.format == "PNG"


def test_folder_without_a_run(compare, tmp_path, capsys):
    with pytest.raises(SystemExit):
        compare(save_run(tmp_path / "run", 50.0), tmp_path / "nothing")
    assert f"{tmp_path / 'nothing'} holds no finished run" in capsys.readouterr().err
