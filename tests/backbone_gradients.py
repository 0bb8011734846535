"""What the tests run in several processes: the gradients of a model, each process with its share of the images."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from tiny_model import gradients
from torch.nn.parallel import DistributedDataParallel

from dedn_hf import DednModel
from dedn_hf.training.run_folder import leave_process_group


def save_gradients(folder: Path, state: PartialState):
    batch = load_file(folder / "batch.safetensors")
    share = {name: value.chunk(state.num_processes)[state.process_index] for name, value in batch.items()}
    model = DistributedDataParallel(DednModel.from_pretrained(folder / "model")).train()
    backbone = model.module.backbone
    assert not any(module.training for module in backbone.modules())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model(**share).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    save_file(gradients(model.module), folder / f"gradients_{state.process_index}.safetensors")


save_gradients(Path(sys.argv[1]), PartialState(cpu=True))
leave_process_group()
