from .arguments import DednTrainingArguments
from .dataset import ClassSubset, PixelValueDataset
from .sampler import ClassBalancedSampler
from .trainer import DednTrainer

__all__ = [
    "ClassBalancedSampler",
    "ClassSubset",
    "DednTrainer",
    "DednTrainingArguments",
    "PixelValueDataset",
]
