"""
Draws the method from image to class scores, for docs/method.md.

    python scripts/lab/draw_architecture.py --output docs/architecture.png
"""

import argparse
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

BLUE, ORANGE, GREEN, GREY = "#dbe8f6", "#fbe3cf", "#dcefdc", "#efefef"
EDGE = "#444444"


def box(axes, left, bottom, width, height, text, color, size=10.5, **options):
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=0.1", facecolor=color, edgecolor=EDGE
        )
    )
    x, y = left + width / 2, bottom + height / 2
    axes.text(x, y, text, ha="center", va="center", fontsize=size, linespacing=1.35, **options)


def arrow(axes, start, end, style="-|>", **options):
    options = {"color": EDGE, "linewidth": 1.3, **options}
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle=style, mutation_scale=13, shrinkA=0, shrinkB=0, **options))


def expert(axes, bottom, title, color):
    """One expert: two attentions over the same map, and what comes of them."""
    axes.add_patch(
        FancyBboxPatch(
            (3.3, bottom), 4.1, 2.3, boxstyle="round,pad=0,rounding_size=0.12", facecolor=color, edgecolor=EDGE
        )
    )
    axes.text(5.35, bottom + 2.05, title, ha="center", va="center", fontsize=11)
    box(axes, 3.5, bottom + 0.2, 1.5, 1.55, "region\nattention\n$V H_1 F,\\ V H_2 F$", "white", 10)
    box(axes, 5.66, bottom + 0.2, 1.58, 1.55, "channel\nattention\n$V H_3 F^T,\\ V H_4 F^T$", "white", 9.5)
    arrow(axes, (5.05, bottom + 0.85), (5.61, bottom + 0.85), "<|-|>", color="#b03030")
    axes.text(5.35, bottom + 1.02, "align", ha="center", va="bottom", fontsize=9.5, color="#b03030")


def draw(path):
    figure, axes = plt.subplots(figsize=(11, 5.6), dpi=160)
    axes.set(xlim=(0, 11), ylim=(0.1, 5.7))
    axes.axis("off")

    box(axes, 0.1, 2.35, 0.85, 1.1, "image", GREY)
    box(axes, 1.15, 2.35, 1.05, 1.1, "backbone", GREY)
    box(axes, 2.4, 2.1, 0.6, 1.6, "$F$\n$C{\\times}R$", GREY, 10)
    arrow(axes, (0.95, 2.9), (1.13, 2.9))
    arrow(axes, (2.2, 2.9), (2.38, 2.9))
    axes.text(2.98, 3.95, "feature map:\n$C$ channels,\n$R$ regions", ha="right", va="bottom", fontsize=9.5)

    expert(axes, 3.25, "coarse expert: 1 head, all $A$ attributes", BLUE)
    expert(axes, 0.25, "fine expert: $G$ heads, one a group", ORANGE)
    arrow(axes, (3.0, 3.2), (3.29, 3.75))
    arrow(axes, (3.0, 2.6), (3.29, 2.05))
    arrow(axes, (4.5, 2.58), (4.5, 3.22), "<|-|>", color="#b03030")
    axes.text(4.62, 2.9, "distil, both ways", va="center", fontsize=10, color="#b03030")

    for bottom, name in ((3.25, "coarse"), (0.25, "fine")):
        middle = bottom + 1.15
        box(axes, 7.75, middle - 0.5, 1.15, 1.0, f"attribute\nscores $p$\n({name})", "white", 10)
        arrow(axes, (7.4, middle), (7.73, middle))
    box(axes, 7.75, 2.35, 1.15, 1.1, "class rows\n$a_k\\ (K{\\times}A)$", GREEN, 10)
    scores = "class scores\n$\\langle a_k, p\\rangle + b_k$\n\n$e\\cdot$coarse\n$+ (1-e)\\cdot$fine"
    box(axes, 9.45, 1.95, 1.45, 1.9, scores, GREEN, 10)
    arrow(axes, (8.9, 4.4), (9.6, 3.87))
    arrow(axes, (8.9, 1.4), (9.6, 1.93))
    arrow(axes, (8.9, 2.9), (9.43, 2.9))

    temporary = f"{path}.tmp"
    figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.05)
    plt.close(figure)
    os.replace(temporary, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="PNG file to write")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
