"""What the tests run in processes of its own: trains, and writes down what each process saw."""

import json
import os
import sys
from pathlib import Path

from launching import pretend_speeds
from test_trainer import losses, make_trainer
from tiny_training import make_tiny_arguments, make_tiny_dataset, make_tiny_inputs

from dedn_hf.training.protocol import run_protocol
from dedn_hf.training.run_folder import from_main, leave_process_group


def train(output_dir, resume=None, **changes):
    trainer = make_trainer(output_dir, read=(read := []), **changes)
    trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate()
    return {
        "losses": losses(trainer),
        "margins": losses(trainer, "loss_coarse_margin"),
        "metrics": {name: metrics[f"eval_{name}"] for name in ("T1", "U", "S", "H")},
        "read": read,
    }


def protocol(output_dir, name, seeds, bf16=None, speeds=None, **changes):
    if speeds is not None:
        pretend_speeds(speeds[int(os.environ.get("RANK", "0"))])
    dataset = make_tiny_dataset()
    arguments = make_tiny_arguments(output_dir / "run", **changes)
    return run_protocol(name, dataset, make_tiny_inputs(dataset), arguments, seeds, bf16=bf16)


def error(output_dir):
    def fail():
        raise ValueError("a picture has changed")

    try:
        from_main(fail)
    except ValueError as error:
        return {"error": str(error)}


output_dir, task, changes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
seen = {"train": train, "protocol": protocol, "error": error}[task](output_dir, **changes)
output_dir.mkdir(exist_ok=True, parents=True)
seen["world_size"] = int(os.environ.get("WORLD_SIZE", "1"))
(output_dir / f"rank_{os.environ.get('RANK', '0')}.json").write_text(json.dumps(seen))
leave_process_group()
