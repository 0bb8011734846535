"""DEDN model configuration."""

from transformers import AutoConfig, PretrainedConfig


class DednConfig(PretrainedConfig):
    r"""
    Configuration of a [`DednModel`], the Dual Expert Distillation Network for generalized zero-shot learning.

    The defaults are the released settings for CUB, without its attributes and classes.

    Args:
        backbone_config (`PretrainedConfig` or `dict`, *optional*):
            Configuration of the vision backbone: any transformers model with a backbone class, or one whose
            `last_hidden_state` is 4-D or is tokens on a square grid. `None` is a model over feature maps only.
        freeze_backbone (`bool`, *optional*, defaults to `True`):
            Whether the backbone stays in evaluation mode and without gradients.
        feature_channels (`int`, *optional*, defaults to 2048):
            Channels C of a feature map.
        grid_size (`int`, *optional*, defaults to 14):
            Side r of a feature map, which has R = r² regions.
        attribute_names (`list[str]`, *optional*, defaults to `[]`):
            The A attributes, in the order of the columns of the class-attribute matrix.
        attribute_groups (`dict[str, list[int]]`, *optional*):
            Name of each head of the fine expert → indices of its attributes: a partition of all attributes. Heads are
            in the order of the names. `None` is one group `"all"`.
        word_vector_size (`int`, *optional*, defaults to 300):
            Width D of the attributes' word vectors.
        region_value_rank (`int`, *optional*):
            Rank h of the region values' matrix, factored as for SUN. `None` is the full matrix.
        normalize_features (`bool`, *optional*, defaults to `True`):
            Whether each region of a feature map is L2-normalised over its channels.
        seen_class_ids (`list[int]`, *optional*):
            Ids of the seen classes, those with training images. `None` is all classes.
        trained_class_names (`list[str]`, *optional*):
            Names of the classes that the model was trained on, which stays as it is when the model is given other
            classes. `None` is the names of `seen_class_ids`.
        class_bias (`float`, *optional*, defaults to 1.0):
            β: the class scores have −β for seen and +β for unseen classes in every loss and in training mode.
        calibration (`float`, *optional*):
            γ of calibrated stacking: the class scores have −γ/2 for seen and +γ/2 for unseen classes in evaluation
            mode. `None` is 2β; `config.gamma` is the γ in effect.
        target_margin (`float`, *optional*, defaults to 2.0):
            What the margin-aware loss subtracts from the score of the true class.
        seen_margin (`float`, *optional*, defaults to 1.0):
            What it adds to the scores of all other seen classes.
        self_calibration_weight (`float`, *optional*, defaults to 0.0):
            λ, weight of the self-calibration loss.
        distillation_weight (`float`, *optional*, defaults to 0.1):
            Weight of the distillation between the two experts.
        alignment_weight (`float`, *optional*, defaults to 0.001):
            Weight of the alignment of region and channel attention within each expert.
        region_mix (`float`, *optional*, defaults to 0.8):
            c: share of region attention in the attribute scores in evaluation mode; 1−c is channel attention's.
        coarse_mix (`float`, *optional*, defaults to 0.9):
            e: share of the coarse expert in the logits; 1−e is the fine expert's.
        kwargs (*optional*):
            As in [`PretrainedConfig`], among them `id2label` and `label2id`, which name the K classes.

    Raises:
        ValueError: If `attribute_groups` is no partition of the attributes, `seen_class_ids` names a class that does
            not exist, or a mix lies outside [0, 1].

    Example:

    ```python
    >>> from dedn_hf import DednConfig, DednModel

    >>> config = DednConfig(
    ...     feature_channels=8,
    ...     grid_size=2,
    ...     attribute_names=["red wing", "blue wing"],
    ...     word_vector_size=4,
    ...     num_labels=3,
    ... )
    >>> model = DednModel(config)
    ```"""

    model_type = "dedn"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012
    # All but the logits, so that they alone are what a Trainer predicts.
    keys_to_ignore_at_inference = [  # noqa: RUF012
        "attribute_scores",
        "coarse_logits",
        "fine_logits",
        "expert_scores",
        "loss_parts",
        "attentions",
    ]

    def __init__(
        self,
        backbone_config=None,
        freeze_backbone=True,
        feature_channels=2048,
        grid_size=14,
        attribute_names=None,
        attribute_groups=None,
        word_vector_size=300,
        region_value_rank=None,
        normalize_features=True,
        seen_class_ids=None,
        trained_class_names=None,
        class_bias=1.0,
        calibration=None,
        target_margin=2.0,
        seen_margin=1.0,
        self_calibration_weight=0.0,
        distillation_weight=0.1,
        alignment_weight=0.001,
        region_mix=0.8,
        coarse_mix=0.9,
        **kwargs,
    ):
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.freeze_backbone = freeze_backbone
        self.feature_channels = feature_channels
        self.grid_size = grid_size
        self.attribute_names = list(attribute_names or [])
        groups = attribute_groups or {"all": range(len(self.attribute_names))}
        # By name, because config.json is: the heads' order must outlive a round trip.
        self.attribute_groups = {name: list(indices) for name, indices in sorted(groups.items())}
        self.word_vector_size = word_vector_size
        self.region_value_rank = region_value_rank
        self.normalize_features = normalize_features
        self.class_bias = class_bias
        self.calibration = calibration
        self.target_margin = target_margin
        self.seen_margin = seen_margin
        self.self_calibration_weight = self_calibration_weight
        self.distillation_weight = distillation_weight
        self.alignment_weight = alignment_weight
        self.region_mix = region_mix
        self.coarse_mix = coarse_mix

        if __name__.startswith("dedn_hf."):
            # Where this package is installed it has registered the pipeline; a model's own would ask for trust in it.
            kwargs.pop("custom_pipelines", None)
        if kwargs.get("id2label") is not None and kwargs.get("label2id") is None:
            kwargs["label2id"] = {label: int(index) for index, label in kwargs["id2label"].items()}
        super().__init__(**kwargs)

        self.seen_class_ids = list(range(self.num_labels)) if seen_class_ids is None else list(seen_class_ids)
        self._check()
        if trained_class_names is None:
            trained_class_names = [self.id2label[index] for index in self.seen_class_ids]
        self.trained_class_names = list(trained_class_names)

    @property
    def gamma(self) -> float:
        """γ of calibrated stacking in effect: `calibration`, or 2β where none is stored. It is not saved."""
        return 2 * self.class_bias if self.calibration is None else self.calibration

    @property
    def _attn_implementation(self):
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict | None):
        """As upstream's, but that a name is not for the backbone too, which has no "blockwise" attention."""
        if not isinstance(value, dict):
            value = {"": value}
        self._attn_implementation_internal = value.get("", getattr(self, "_attn_implementation_internal", None))
        if "backbone_config" in value and self.backbone_config is not None:
            self.backbone_config._attn_implementation = value["backbone_config"]

    def to_dict(self) -> dict:
        """As [`PretrainedConfig.to_dict`], with the attention where it is not the default."""
        dictionary = super().to_dict()
        if self._attn_implementation == "eager":
            dictionary["attn_implementation"] = "eager"
        return dictionary

    def _check(self):
        grouped = sorted(index for indices in self.attribute_groups.values() for index in indices)
        expected = range(len(self.attribute_names))
        if grouped != list(expected):
            twice = sorted({index for index in grouped if grouped.count(index) > 1})
            missing, unknown = sorted(set(expected) - set(grouped)), sorted(set(grouped) - set(expected))
            raise ValueError(
                f"`attribute_groups` must put each of the {len(expected)} attributes into exactly one group, but it "
                f"holds {len(grouped)} indices: missing {missing}, more than once {twice}, beyond the attributes "
                f"{unknown}. Correct the groups, or leave them out for a single group."
            )
        strangers = [index for index in self.seen_class_ids if not 0 <= index < self.num_labels]
        if strangers:
            raise ValueError(
                f"`seen_class_ids` holds {strangers}, but there are {self.num_labels} classes, with ids from 0. "
                "Name all classes in `id2label`, or correct the ids."
            )
        for name in ("region_mix", "coarse_mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share and must lie in [0, 1], but it is {getattr(self, name)}.")


__all__ = ["DednConfig"]
