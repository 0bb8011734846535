import json
from pathlib import Path

import pytest
from launching import launch_script
from tiny_training import make_tiny_dataset


@pytest.fixture
def tiny_dataset():
    return make_tiny_dataset()


@pytest.fixture
def launch(two_processes):
    """Runs a task of launched.py in processes of its own, and gives what each of them saw."""

    def launch(output_dir, num_processes, task, **changes):
        script = Path(__file__).with_name("launched.py")
        launch_script(
            script, str(output_dir), task, json.dumps(changes), num_processes=num_processes, folder=output_dir / "log"
        )
        ranks = [json.loads((output_dir / f"rank_{rank}.json").read_text()) for rank in range(num_processes)]
        # `accelerate launch` may silently start one process only.
        assert [rank["world_size"] for rank in ranks] == [num_processes] * num_processes
        return ranks

    return launch
