"""What a test runs in a process of its own: one run after another, killed at moments drawn from a seed, and ended."""

import gc
import os
import random
import signal
import sys
import time
from pathlib import Path

from tiny_extraction import make_tiny_images
from tiny_training import make_tiny_arguments, make_tiny_dataset, make_tiny_inputs

from dedn_hf.features import store_writer
from dedn_hf.features.extraction import extract_feature_maps
from dedn_hf.training.protocol import run_protocol

kind, folder, backbone, images, times = sys.argv[1:]
store_writer.SHARD_ROWS = 1


def run(output_dir: Path):
    if kind == "extraction":
        dataset = make_tiny_images(Path(images))
        extract_feature_maps(dataset, backbone, 64, output_dir, "birds", batch_size=2, num_workers=1)
    else:
        dataset = make_tiny_dataset()
        run_protocol("validated", dataset, make_tiny_inputs(dataset), make_tiny_arguments(output_dir), [0])


def start(output_dir: Path) -> int:
    """Forks, since importing takes longer than running."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        run(output_dir)
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def end(process: int):
    _, status = os.waitpid(process, 0)
    if status:
        sys.exit(f"a run ended with {status}")


gc.freeze()  # What is imported, the Trainer would look through.
began = time.monotonic()
end(start(Path(folder) / "whole"))
duration = time.monotonic() - began
draw, killed = random.Random(0), 0
for number in range(int(times)):
    output_dir = Path(folder) / str(number)
    process = start(output_dir)
    time.sleep(draw.uniform(0, duration))
    # Its workers are left to find out.
    os.kill(process, signal.SIGKILL)
    killed += os.waitpid(process, 0)[1] == signal.SIGKILL
    end(start(output_dir))
Path(folder, "killed.txt").write_text(str(killed))
