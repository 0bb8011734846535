from .arguments import DednTrainingArguments
from .dataset import ClassSubset, PixelValueDataset, RandomCrop
from .sampler import ClassBalancedSampler
from .trainer import DednTrainer

__all__ = [
    "ClassBalancedSampler",
    "ClassSubset",
    "DednTrainer",
    "DednTrainingArguments",
    "PixelValueDataset",
    "RandomCrop",
]
