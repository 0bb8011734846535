from .arguments import CONFIG_RECIPES, RECIPES, DednTrainingArguments, recipe, recipe_config
from .dataset import ClassSubset, PixelValueDataset
from .sampler import ClassBalancedSampler
from .trainer import DednTrainer

__all__ = [
    "CONFIG_RECIPES",
    "RECIPES",
    "ClassBalancedSampler",
    "ClassSubset",
    "DednTrainer",
    "DednTrainingArguments",
    "PixelValueDataset",
    "recipe",
    "recipe_config",
]
