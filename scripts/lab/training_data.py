"""What scripts that train on a data set share: how they read it."""

from dedn_hf.cli.train import DataArguments
from dedn_hf.data import GzslDataset
from dedn_hf.data.load import load_gzsl_dataset
from dedn_hf.recipes import Recipe
from dedn_hf.training.arguments import DednTrainingArguments


def load_training_data(
    script: DataArguments, training: DednTrainingArguments, recipe: Recipe
) -> tuple[GzslDataset, dict]:
    """
    The data set that the flags name, read by the main process first, and the fields of [`DednConfig`] that the recipe
    sets, without the groups of attributes, which the data set has.
    """
    config = dict(recipe.model)
    with training.main_process_first(desc="data set"):
        dataset = load_gzsl_dataset(
            script.dataset,
            script.data_dir,
            script.word_vectors,
            check_files=script.feature_maps is None,
            attribute_groups=config.pop("attribute_groups", None),
            attribute_scale=script.attribute_scale,
        )
    return dataset, config
