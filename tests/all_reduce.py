"""Run by the `two_processes` fixture: what several processes need of torch and this machine, and nothing of ours."""

import torch
from accelerate import PartialState
from torch import distributed

state = PartialState(cpu=True)
ranks = torch.tensor([state.process_index])
distributed.all_reduce(ranks)
assert state.num_processes == 2 and ranks.item() == 1
state.destroy_process_group()
