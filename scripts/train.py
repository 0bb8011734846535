"""The same as `dedn train`, for `accelerate launch scripts/train.py`."""

import sys

from dedn_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
