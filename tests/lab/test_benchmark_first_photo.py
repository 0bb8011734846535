import json

import pytest
from benchmark_first_photo import main
from PIL import Image
from synthetic_model import SYNTHETIC_MODEL


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((60, 40), 60).convert("RGB").save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.slow
def test_both_are_measured(photo, tmp_path, capsys):
    file = tmp_path / "out" / "figures.json"
    main(["--image", str(photo), "--model", str(SYNTHETIC_MODEL), "--repeats", "1", "--json", str(file)])
    figures = json.loads(file.read_text())
    (run,) = figures["runs"]
    for name in ("loading_and_photo", "process"):
        assert figures["pipeline"][name] == run["pipeline"][name] > 0
        assert figures["ratio"][name] == pytest.approx(run["pipeline"][name] / run["backbone"][name])
    assert run["pipeline"]["process"] > run["pipeline"]["loading_and_photo"]
    assert "loading and one photo" in capsys.readouterr().out


def test_wrong_calls_are_one_line(photo, tmp_path):
    for model, image, message in (
        (tmp_path / "nowhere", photo, "error: there is no model folder"),
        (SYNTHETIC_MODEL, tmp_path / "no.jpg", "error: .*no.jpg"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["--image", str(image), "--model", str(model)])
