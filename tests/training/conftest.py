import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import make_tiny_dataset


@pytest.fixture(autouse=True, scope="session")
def _short_garbage_collection():
    # The Trainer collects garbage when it starts, which takes half a second over all that is imported.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def tiny_dataset():
    return make_tiny_dataset()


@pytest.fixture
def launch():
    """Runs a task of launched.py in processes of its own, and gives what each of them saw."""
    script = Path(__file__).with_name("launched.py")

    def launch(output_dir, num_processes, task, **changes):
        launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
        launcher += ["--main_process_port", "0"]
        command = [sys.executable, *(launcher if num_processes > 1 else []), str(script), str(output_dir), task]
        result = subprocess.run(
            [*command, json.dumps(changes)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[1])},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        ranks = [json.loads((output_dir / f"rank_{rank}.json").read_text()) for rank in range(num_processes)]
        # `accelerate launch` may silently start one process only.
        assert [rank["world_size"] for rank in ranks] == [num_processes] * num_processes
        return ranks

    return launch
