import runpy
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "lab" / "draw_architecture.py"


def test_it_draws_a_picture_that_is_wide_enough_to_read(tmp_path):
    runpy.run_path(str(SCRIPT))["draw"](tmp_path / "architecture.png")
    (file,) = tmp_path.iterdir()
    with Image.open(file) as image:
        assert image.format == "PNG" and image.width >= 900
