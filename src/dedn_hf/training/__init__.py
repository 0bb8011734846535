from .arguments import RECIPES, DednTrainingArguments, recipe
from .dataset import ClassSubset, PixelValueDataset
from .sampler import ClassBalancedSampler
from .trainer import DednTrainer

__all__ = [
    "RECIPES",
    "ClassBalancedSampler",
    "ClassSubset",
    "DednTrainer",
    "DednTrainingArguments",
    "PixelValueDataset",
    "recipe",
]
