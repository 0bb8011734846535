"""What `results.json` holds after a run."""

import copy

RESULTS = {
    "dataset": "cub",
    "protocol": "validated",
    "split": {"name": "a split", "sha256": "0123abcd"},
    "seeds": [0],
    "settings": {"learning_rate": 0.0001, "grid_size": 7},
    "chosen": {"epochs": 12, "region_mix": 0.85, "coarse_mix": 0.4, "calibration": 1.23456},
    "validation": {"T1": 41.234567, "U": 31.0, "S": 52.0, "H": 38.84},
    "test": {"T1": 40.456789, "U": 30.0, "S": 50.0, "H": 37.5, "AUSUC": 22.25},
    "versions": {"python": "3.11.0", "torch": "2.13.0"},
    "command": "python scripts/train.py --dataset cub",
}


def results(**changes):
    return copy.deepcopy(RESULTS) | changes
