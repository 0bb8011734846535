"""
What stands on the pages, and a folder in which their snippets run.

A snippet is a fenced block. Python blocks of a page run in order, in one namespace; shell blocks line by line. A
comment right before a block says what is different about it:

    <!-- not run: REASON -->
    <!-- slow: REASON -->           the slow tests run it

A block whose fence names a file, as ```csv my_birds.csv, is what that file holds.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from synthetic_model import SYNTHETIC_MODEL
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetModel

from dedn_hf import DednModel
from dedn_hf.data.synthetic_birds import TRAIT_VALUES, draw_bird

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL, FILES, SHOWN = ("sh", "bash", "console"), ("csv", "yaml", "json"), ("bibtex",)
# What pages name from the Hub, and what stands for it in the folder.
STAND_INS = {"google/mobilenet_v2_1.0_224": "backbone"}


@dataclass
class Block:
    """A fenced block: its first line in the page, language, the file it names, what is different about it, text."""

    line: int
    language: str
    file: str
    note: str
    text: str

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, those that go on in the next one joined."""
        lines = re.sub(r"\\\n\s*", " ", self.text).splitlines()
        return [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.startswith("#")]


def blocks(page: Path) -> list[Block]:
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    assert len(fences) % 2 == 0, f"{page.name}: a block is not closed"
    for first, last in zip(fences[::2], fences[1::2]):
        language, _, file = lines[first][3:].partition(" ")
        note = re.fullmatch(r"<!-- (.+) -->", lines[first - 1])
        found.append(
            Block(first + 1, language, file, note[1] if note else "", "\n".join(lines[first + 1 : last]) + "\n")
        )
    return found


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def draw(file: Path, seed: int, **traits):
    """A bird with some traits, the others by chance."""
    rng = np.random.default_rng(seed)
    chosen = {trait: values[int(rng.random() * len(values))] for trait, values in TRAIT_VALUES.items()}
    image, _, _ = draw_bird(chosen | traits, rng, 96)
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)


GARDEN = {
    "Robin": {"breast_color": "red", "head_color": "brown", "wing_color": "brown", "size": "medium"},
    "Wren": {"breast_color": "brown", "head_color": "brown", "wing_color": "brown", "size": "small"},
    "Blue Tit": {"breast_color": "yellow", "head_color": "white", "wing_color": "blue", "size": "small"},
    "Great Tit": {"breast_color": "yellow", "head_color": "black", "wing_color": "green", "size": "medium"},
    "Blackbird": {"breast_color": "black", "head_color": "black", "wing_color": "black", "size": "large"},
    "Bullfinch": {"breast_color": "pink", "head_color": "black", "wing_color": "black", "size": "medium"},
}


def prepare_folder(folder: Path):
    """
    `bird.png`, `photos/`, `my_folder` with its images, `outputs/synthetic_birds`, what stands for a backbone, and the
    files that are on the pages.
    """
    for page in PAGES:
        for block in blocks(page):
            if block.file:
                file = folder / block.file
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(block.text, encoding="utf-8")
    draw(folder / "bird.png", 0)
    for seed in range(1, 5):
        draw(folder / "photos" / f"{seed}.png", seed)
    draw(folder / "photos" / "garden" / "5.png", 5)
    for seed in range(8):
        for name, traits in GARDEN.items():
            draw(folder / "my_folder" / "images" / name / f"{seed}.png", seed, **traits)

    model = folder / "outputs" / "synthetic_birds"
    DednModel.from_pretrained(SYNTHETIC_MODEL).save_pretrained(model)
    CLIPImageProcessorPil.from_pretrained(SYNTHETIC_MODEL).save_pretrained(model)
    card = (ROOT / "model_cards" / "dedn-synthetic-birds.md").read_text(encoding="utf-8")
    (model / "README.md").write_text(card, encoding="utf-8")

    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetModel(backbone).save_pretrained(folder / "backbone")
    CLIPImageProcessorPil().save_pretrained(folder / "backbone")


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def is_image(file: Path) -> bool:
    with Image.open(file) as image:
        image.verify()
    return True
