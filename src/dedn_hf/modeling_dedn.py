"""
DEDN, the Dual Expert Distillation Network for generalized zero-shot learning (Rao et al., IJCAI 2024, arXiv
2404.16348).

An image's feature map F (C channels × R regions) is scored against A attributes by two experts: a coarse one, one
attention head over all attributes, and a fine one, a head for each group of attributes. A class is scored by the inner
product of its normalised row of class attributes with the attribute scores, so that a class needs no image, only a
description. From top to bottom: a head, an expert, the losses, the model. The pooling by attention, with a backward
pass of its own, is in `attentive_pooling_dedn.py`; what makes feature maps of images, in `backbone_dedn.py`.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Transpose, WeightConverter
from transformers.utils import ModelOutput

from .attentive_pooling_dedn import attention_weights, attentive_pooling, eager_pooling
from .backbone_dedn import backbone_class, backbone_feature_map, can_look_at_values, skip_open_gates
from .class_fit_dedn import ClassFit, ClassTargets
from .configuration_dedn import DednConfig
from .names_dedn import NameMatcher, matcher_of
from .ranks_dedn import ranks_of, read_parents

if TYPE_CHECKING:
    # A saved model takes along the files that this one imports: the pipeline too, and again when it is saved anew,
    # and what that imports in turn, which older transformers would not find.
    from .answers_dedn import information_gains  # noqa: F401
    from .candidates_dedn import read_candidates  # noqa: F401
    from .images_dedn import load_any_image  # noqa: F401
    from .pipeline_dedn import ZeroShotAttributeClassificationPipeline  # noqa: F401
    from .words_dedn import understand  # noqa: F401


# Until version 0.2 each matrix of a head was a parameter of its own, (D, C) where the module's weight is (C, D).
_MATRICES = ("region_value", "region_value_out", "region_weight", "channel_value", "channel_weight")
register_checkpoint_conversion_mapping(
    DednConfig.model_type,
    [WeightConverter(rf"{name}$", f"{name}.weight", operations=[Transpose(0, 1)]) for name in _MATRICES],
    overwrite=True,
)


class DednAttentionHead(nn.Module):
    """
    The dual attention of n attributes: over the regions of a feature map, and over its channels.

    Its values and weights are bilinear in word vectors V and the map: `V H1 F` and `V H2 F` for regions, `V H3 Fᵀ` and
    `V H4 Fᵀ` for channels. H2 and H4 start as zero, so attention starts uniform.
    """

    def __init__(self, config: DednConfig, num_attributes: int):
        super().__init__()
        size, channels, regions = config.word_vector_size, config.feature_channels, config.grid_size**2
        self.word_vectors = nn.Parameter(torch.empty(num_attributes, size))
        self.low_rank = config.region_value_rank is not None
        with init.no_init_weights():  # which `_init_weights` sees to
            self.region_value = nn.Linear(size, config.region_value_rank or channels, bias=False)
            if self.low_rank:
                self.region_value_out = nn.Linear(config.region_value_rank, channels, bias=False)
            self.region_weight = nn.Linear(size, channels, bias=False)
            self.channel_value = nn.Linear(size, regions, bias=False)
            self.channel_weight = nn.Linear(size, regions, bias=False)
        # How a matrix starts: N(0, std²), by default with 1.
        self.region_weight.start_std = self.channel_weight.start_std = 0
        if self.low_rank:
            std = config.region_value_std
            self.region_value_out.start_std = config.region_value_rank**-0.5 if std is None else std

    def forward(self) -> tuple[torch.Tensor, ...]:
        """V H1 and V H2, each `(n, C)`, V H3 and V H4, each `(n, R)`: what the feature map is multiplied with."""
        # Counters of operations stumble over a parameter as a module's input in inference mode.
        word_vectors = self.word_vectors if torch.is_grad_enabled() else self.word_vectors.detach()
        region_value = self.region_value(word_vectors)
        if self.low_rank:
            region_value = self.region_value_out(region_value)
        return (
            region_value,
            self.region_weight(word_vectors),
            self.channel_value(word_vectors),
            self.channel_weight(word_vectors),
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in _MATRICES:
            if prefix + name in state_dict:
                state_dict[f"{prefix}{name}.weight"] = state_dict.pop(prefix + name).T.contiguous()
        super()._load_from_state_dict(state_dict, prefix, *args)


class DednExpert(nn.Module):
    """Heads over the groups of a partition of the attributes; what they give is put back in attribute order."""

    def __init__(self, config: DednConfig, groups: list[list[int]]):
        super().__init__()
        self.groups = groups
        self.heads = nn.ModuleList(DednAttentionHead(config, len(group)) for group in groups)
        self.register_buffer("attribute_order", torch.empty(len(config.attribute_names), dtype=torch.long))

    def forward(self) -> list[torch.Tensor]:
        """As [`DednAttentionHead.forward`], with one row for each of the A attributes in attribute order."""
        return [torch.cat(rows)[self.attribute_order] for rows in zip(*(head() for head in self.heads))]

    @torch.no_grad()
    def set_word_vectors(self, word_vectors: torch.Tensor):
        for group, head in zip(self.groups, self.heads):
            head.word_vectors.copy_(word_vectors[group])


def _is_plain(module: nn.Module) -> bool:
    """Whether nothing is put around this module, or in its place, that counts on its being called."""
    return type(module) in (DednExpert, DednAttentionHead, nn.ModuleList, nn.Linear) and not (
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in vars(module)
        or nn.modules.module._has_any_global_hook()
    )


def _is_float_on_cpu(parameter: torch.Tensor) -> bool:
    return type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.dtype == torch.float32


def _at_least_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def distillation_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    D(x, y), what ties two sets of scores `(B, N)` together: the cubed differences over their Euclidean norm, plus the
    Jensen-Shannon divergence (natural logarithm) of their softmaxes, averaged over the batch. Gradients flow into
    both. Finite, with finite gradients, at x = y.
    """
    difference = (x - y).abs()
    cubic = (difference**3).sum(dim=-1) / (difference.square().sum(dim=-1) + 1e-9).sqrt()
    log_p, log_q = x.log_softmax(dim=-1), y.log_softmax(dim=-1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    divergence = 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(dim=-1)
    return (cubic + divergence).mean()


def margin_loss(
    scores: torch.Tensor, labels: torch.Tensor, seen: torch.Tensor, target_margin: float, seen_margin: float
) -> torch.Tensor:
    """
    Margin-aware loss: cross-entropy over all classes of scores `(B, K)` without class bias, after the true class has
    lost `target_margin` and every other seen class has gained `seen_margin`.
    """
    margins = (seen_margin * seen.to(scores.dtype)).expand_as(scores)
    margins = margins.scatter(1, labels[:, None], -target_margin)
    return F.cross_entropy(scores + margins, labels)


def self_calibration_loss(scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """
    Self-calibration: minus the logarithm of the unseen classes' share of the softmax of scores `(B, K)`, averaged over
    the batch. It is the logarithm of a mean, not a mean of logarithms, so it is a property of the whole (micro-)batch:
    accumulating gradients over small batches is not the same as one large batch where its weight is not zero.
    """
    unseen = scores.log_softmax(dim=-1).masked_fill(seen, -math.inf)
    return math.log(len(scores)) - unseen.flatten().logsumexp(dim=0)


@dataclass
class DednOutput(ModelOutput):
    """
    Output of [`DednModel`].

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is given):
            The total loss.
        logits (`torch.FloatTensor` of shape `(B, K)`):
            Class scores of both experts, `coarse_mix`·coarse + (1−`coarse_mix`)·fine.
        attribute_scores (`torch.FloatTensor` of shape `(B, A)`):
            Attribute scores of both experts, in attribute order, mixed in the same way.
        coarse_logits (`torch.FloatTensor` of shape `(B, K)`):
            Class scores of the coarse expert.
        fine_logits (`torch.FloatTensor` of shape `(B, K)`):
            Class scores of the fine expert.
        expert_scores (`torch.FloatTensor` of shape `(B, 2, 2, A)`):
            Attribute scores apart: [coarse, fine] × [region attention, channel attention]. All else can be had from
            them for any mix and calibration.
        loss_parts (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` is given):
            The terms of the loss before they are weighted: `coarse_margin`, `fine_margin`, `coarse_calibration`,
            `fine_calibration`, `distillation`, `coarse_alignment`, `fine_alignment`.
        attentions (`dict[str, torch.FloatTensor]`, *optional*, returned when `output_attentions=True`):
            `"coarse"` and `"fine"` → weights of the region attention, `(B, A, H, W)` in attribute order, which sum to
            1 over a map.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    attribute_scores: torch.FloatTensor | None = None
    coarse_logits: torch.FloatTensor | None = None
    fine_logits: torch.FloatTensor | None = None
    expert_scores: torch.FloatTensor | None = None
    loss_parts: dict[str, torch.FloatTensor] | None = None
    attentions: dict[str, torch.FloatTensor] | None = None


@dataclass
class DednPrediction(ModelOutput):
    """
    What [`~DednModel.predict`] says of images, for K candidate classes; float32.

    Args:
        logits (`torch.FloatTensor` of shape `(B, K)`):
            Class scores of both experts after calibration. A label's score is their softmax.
        attribute_scores (`torch.FloatTensor` of shape `(B, A)`):
            As in [`DednOutput`].
        attribute_probabilities (`torch.FloatTensor` of shape `(B, A)`):
            The same from 0 to 1, see [`~DednModel.attribute_probabilities`].
        contributions (`torch.FloatTensor` of shape `(B, A)`):
            What each attribute adds to the difference of the class scores of the best class k and the runner-up l:
            `(a_k − a_l) ⊙ (p − r)`, with normalised rows of class attributes a, attribute scores p, and the buffer
            `attribute_levels` r, the scores where an image has as much of an attribute as usual. Below 0 it speaks for
            l; above 0 for k, also where l has more of the attribute and the image less than usual. Over all attributes
            they sum to the difference of the two class scores, without calibration, less `(a_k − a_l) · r`, which is
            the same for all images. An attribute whose score tells next to nothing by its calibration (a slope of less
            than a hundredth of the median) counts as 0. All are 0 where there is a single candidate. A model without
            calibration has r = 0.
        expert_scores (`torch.FloatTensor` of shape `(B, 2, 2, A)`):
            As in [`DednOutput`].
        attentions (`dict[str, torch.FloatTensor]`, *optional*, returned when `output_attentions=True`):
            `"coarse"`, `"fine"` and, mixed as their scores are, `"mixed"` → weights of the region attention,
            `(B, A, H, W)` in attribute order, which sum to 1 over a map.
    """

    logits: torch.FloatTensor | None = None
    attribute_scores: torch.FloatTensor | None = None
    attribute_probabilities: torch.FloatTensor | None = None
    contributions: torch.FloatTensor | None = None
    expert_scores: torch.FloatTensor | None = None
    attentions: dict[str, torch.FloatTensor] | None = None


def rows_of_nothing(class_attributes: torch.Tensor) -> list[int]:
    """Which rows of a class-attribute matrix `(K, A)` describe nothing: they have no attribute above 0."""
    return (class_attributes > 0).any(dim=1).logical_not().nonzero().flatten().tolist()


def _first(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


class DednPreTrainedModel(PreTrainedModel):
    config_class = DednConfig
    base_model_prefix = "dedn"
    main_input_name = "pixel_values"
    # Which models had not until version 0.2: levels are found on loading, statistics stay 0.
    _keys_to_ignore_on_load_missing = ["attribute_levels", "attribute_statistics"]  # noqa: RUF012
    input_modalities = ("image",)
    _no_split_modules = ["DednExpert"]  # noqa: RUF012
    # Else the Trainer takes the loss for one that is already divided by the accumulated batch's size.
    accepts_loss_kwargs = False
    # Of the backbone.
    supports_gradient_checkpointing = True

    def get_correct_attn_implementation(self, requested_attention: str | None, is_init_check: bool = False) -> str:
        if requested_attention not in (None, "blockwise", "eager"):
            raise ValueError(
                f"A {type(self).__name__} has no attention {requested_attention!r}: its `attn_implementation` is "
                '"blockwise", the default, or "eager". A backbone keeps its own; to ask for another, write '
                f'`attn_implementation={{"backbone_config": {requested_attention!r}}}`.'
            )
        return requested_attention or "blockwise"

    def set_attn_implementation(self, attn_implementation: str | dict):
        """
        As [`PreTrainedModel.set_attn_implementation`], but that a name is for the experts alone: the backbone keeps
        its own, which is set by `{"backbone_config": name}`.

        Raises:
            ValueError: If there is no such implementation.
        """
        if not isinstance(attn_implementation, dict):
            attn_implementation = {"": attn_implementation}
        if "" in attn_implementation:
            self.config._attn_implementation = self.get_correct_attn_implementation(attn_implementation[""])
        if "backbone_config" in attn_implementation and self.backbone is not None:
            self.backbone.set_attn_implementation(attn_implementation["backbone_config"])

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, DednAttentionHead):
            init.normal_(module.word_vectors)
            init.copy_(module.word_vectors, F.normalize(module.word_vectors, dim=-1))
            for linear in module.children():
                self._init_matrix(linear)
        elif isinstance(module, nn.Linear) and getattr(
            self.coarse_expert.attribute_order, "_is_hf_initialized", False
        ):
            # Of a head that is not asked itself, because its word vectors were loaded.
            self._init_matrix(module)
        elif isinstance(module, DednExpert):
            grouped = torch.tensor([index for group in module.groups for index in group], dtype=torch.long)
            init.copy_(module.attribute_order, grouped.argsort())
        elif isinstance(module, DednModel):
            init.zeros_(module.class_attributes)
            init.copy_(module.seen_classes, module._seen_mask())
            identity = torch.tensor([[1.0], [0.0]])
            init.copy_(module.attribute_calibration, identity.expand_as(module.attribute_calibration))
            init.zeros_(module.attribute_levels)
            init.zeros_(module.attribute_statistics)
        elif isinstance(module, ClassFit):
            for buffer in module.buffers():
                init.zeros_(buffer)

    @staticmethod
    def _init_matrix(linear: nn.Linear):
        std = getattr(linear, "start_std", 1)
        if std == 0:
            init.zeros_(linear.weight)
        elif not getattr(linear.weight, "_is_hf_initialized", False):
            # Drawn transposed, so that a seed gives the numbers that it gave when the matrix was stored so.
            init.copy_(linear.weight, torch.empty_like(linear.weight.T).contiguous().normal_(std=std).T)


class DednModel(DednPreTrainedModel):
    """
    DEDN with its backbone, or over feature maps alone where `config.backbone_config` is `None`.

    A new model has random word vectors and no class attributes: give it [`~DednModel.set_word_vectors`] and
    [`~DednModel.set_classes`] before training. A trained one has both, and can be given other classes at any time.
    """

    def __init__(self, config: DednConfig):
        super().__init__(config)
        if config.model_type != "dedn":
            raise ValueError(
                f"A DednModel is made from a DednConfig, but this is a {type(config).__name__} of `model_type` "
                f"{config.model_type!r}."
            )
        config.validate()
        if not config.attribute_names:
            raise ValueError("A DednModel needs attributes, but `config.attribute_names` is empty. Name them there.")
        num_attributes = len(config.attribute_names)
        self.backbone = None
        if config.backbone_config is not None:
            self.backbone = backbone_class(config.backbone_config).from_config(config.backbone_config)
            skip_open_gates(self.backbone)
        else:
            self.main_input_name = "feature_map"
        self.coarse_expert = DednExpert(config, [list(range(num_attributes))])
        self.fine_expert = DednExpert(config, list(config.attribute_groups.values()))
        self.register_buffer("class_attributes", torch.empty(config.num_labels, num_attributes))
        self.register_buffer("seen_classes", torch.empty(config.num_labels, dtype=torch.bool))
        self.register_buffer("attribute_calibration", torch.empty(2, num_attributes))
        # By the classes that it was calibrated with, whichever it is given later.
        self.register_buffer("attribute_levels", torch.empty(num_attributes))
        # Mean and standard deviation of the scores of training images.
        self.register_buffer("attribute_statistics", torch.empty(2, num_attributes))
        self.class_fit = None
        if config.class_fit_size is not None:
            self.class_fit = ClassFit(num_attributes, *config.class_fit_size)
        self._kept = None
        self.post_init()
        self._classes_changed()
        self.train(self.training)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """
        As [`PreTrainedModel.from_pretrained`]. Classes can be renamed on loading (`id2label`). With other classes and
        `ignore_mismatched_sizes=True` the model has no class attributes until it is given them by `set_classes`.

        Raises:
            ValueError: If the weights do not fit the config, as it is saved or as it is changed on loading.
            OSError: If there are no weights, or they are damaged.
        """
        ignore_mismatched_sizes = kwargs.pop("ignore_mismatched_sizes", False)
        output_loading_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
            )
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # which is neither an OSError nor a ValueError
                raise
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are damaged, or were cut off: {error}. Copy or "
                "download the model again."
            ) from error
        shapes = {name: tuple(map(tuple, others)) for name, *others in info["mismatched_keys"]}
        if shapes and not ignore_mismatched_sizes:
            name = "class_attributes" if "class_attributes" in shapes else min(shapes)
            way_out = "Load it with the settings that it was saved with, or make a new model, `DednModel(config)`."
            if shapes.keys() <= {"class_attributes", "seen_classes"}:
                way_out = "Load it with its own classes, and give it others by `set_classes(names, class_attributes)`."
            raise ValueError(
                f"The weights of {pretrained_model_name_or_path} do not fit its config: `{name}` has shape "
                f"{shapes[name][0]}, but by the config ({model.config.num_labels} classes, "
                f"{len(model.config.attribute_names)} attributes) it is {shapes[name][1]}. {way_out}"
            )
        for expert in (model.coarse_expert, model.fine_expert):
            order = [index for group in expert.groups for index in group]
            if not expert.attribute_order.is_meta and expert.attribute_order.argsort().tolist() != order:
                raise ValueError(
                    f"The weights of {pretrained_model_name_or_path} were trained with other `attribute_groups` than "
                    "its config has. Load it with those, or make a new model, `DednModel(config)`."
                )
        model._classes_changed()
        model._complete()
        return (model, info) if output_loading_info else model

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if prefix + "class_attributes" in state_dict:
            for name in ("attribute_levels", "attribute_statistics"):
                state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._classes_changed()
        self._complete()

    def _classes_changed(self):
        """After the class attributes, or which classes are seen, have changed: what is seen stands in the config."""
        self._are_classes_described = not self.class_attributes.is_meta and not rows_of_nothing(self.class_attributes)
        self._seen_class_ids = list(self.config.seen_class_ids)
        if not self.seen_classes.is_meta and len(self.seen_classes) == self.config.num_labels:
            with torch.no_grad():
                self.seen_classes.copy_(self._seen_mask())

    def _seen_mask(self) -> torch.Tensor:
        seen = torch.zeros(self.config.num_labels, dtype=torch.bool)
        seen[self.config.seen_class_ids] = True
        return seen

    def check_classes(self):
        """
        Raises:
            ValueError: If the model's classes are not those of its config, or nothing is known of one of them.
        """
        self._check_config()
        if self._are_classes_described or self.class_attributes.is_meta:
            return
        unknown = list(self.config.id2label.values())
        if can_look_at_values():
            unknown = [unknown[index] for index in rows_of_nothing(self.class_attributes)]
        if unknown:
            raise ValueError(
                f"The model knows nothing of {len(unknown)} of its {self.config.num_labels} classes "
                f"({_first(unknown)}): they have no attribute above 0. Describe all classes with "
                "`set_classes(names, class_attributes)`."
            )
        self._are_classes_described = True

    def _check_config(self):
        """Raises a `ValueError` if the config was changed in a way that the model does not follow."""
        expected, actual = (self.config.num_labels, len(self.config.attribute_names)), self.class_attributes.shape
        if expected != tuple(actual):
            raise ValueError(
                f"The config names {expected[0]} classes and {expected[1]} attributes, but the model has {actual[0]} "
                f"classes with {actual[1]} attributes. Change classes with `set_classes`, which changes both."
            )
        if not torch.compiler.is_compiling() and self.config.seen_class_ids != self._seen_class_ids:
            raise ValueError(
                "`config.seen_class_ids` was changed, but the model does not follow it. Use "
                "`set_classes(names, class_attributes, seen)`, which changes both."
            )

    def train(self, mode: bool = True):
        super().train(mode)
        # Here and not in __init__, because from_pretrained makes the parameters anew.
        if self.backbone is not None:
            if self.config.freeze_backbone:
                self.backbone.requires_grad_(False)
            # Also where an adapter froze it: statistics of its own would move on, and not be saved with the adapter.
            if not any(parameter.requires_grad for parameter in self.backbone.parameters()):
                self.backbone.eval()
            elif self.config.freeze_batch_norm:
                for module in self.backbone.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def save_pretrained(self, save_directory, *args, **kwargs):
        """
        As [`PreTrainedModel.save_pretrained`]; what is saved loads through all auto classes that the model serves and
        through `pipeline`, also where only transformers is installed. The image processor is saved by itself.
        """
        self._check_config()
        # register_for_auto_class knows one only, and a loaded model's map may point to where it came from.
        auto_classes = ("AutoModel", "AutoModelForImageClassification", "AutoModelForZeroShotImageClassification")
        reference = f"modeling_dedn.{type(self).__name__}"
        self.config.auto_map = {**getattr(self.config, "auto_map", {}), **dict.fromkeys(auto_classes, reference)}
        self.config.custom_pipelines = {
            "zero-shot-attribute-classification": {
                "impl": "pipeline_dedn.ZeroShotAttributeClassificationPipeline",
                "pt": ["AutoModelForZeroShotImageClassification"],
            }
        }
        # "Original" is what they were called until version 0.2.
        super().save_pretrained(save_directory, *args, **{"save_original_format": False} | kwargs)
        for file in Path(save_directory).glob("*.safetensors"):  # which are written for their owner only
            file.chmod(0o644)

    def set_word_vectors(self, word_vectors):
        """
        Starts the word vectors of every head from these, L2-normalised. A row of zeros stays one.

        Args:
            word_vectors (`torch.Tensor` or `np.ndarray` of shape `(A, D)`):
                One word vector an attribute, in attribute order.

        Raises:
            ValueError: If the shape is another.
        """
        word_vectors = torch.as_tensor(word_vectors, dtype=torch.float32)
        expected = (len(self.config.attribute_names), self.config.word_vector_size)
        if tuple(word_vectors.shape) != expected:
            raise ValueError(
                f"`word_vectors` has shape {tuple(word_vectors.shape)}, but the model has {expected[0]} attributes "
                f"and `word_vector_size` {expected[1]}. Give one row an attribute, and set `word_vector_size` to "
                "their width."
            )
        for expert in (self.coarse_expert, self.fine_expert):
            expert.set_word_vectors(F.normalize(word_vectors, dim=-1))

    def set_classes(
        self,
        names: list[str],
        class_attributes,
        seen: list[bool] | None = None,
        class_parents: dict[str, str] | None = None,
    ):
        """
        Replaces the classes that the model predicts; the config follows, so that saving and loading agree.

        Args:
            names (`list[str]`):
                Names of the K classes.
            class_attributes (`torch.Tensor` or `np.ndarray` of shape `(K, A)`):
                Strength of each attribute in each class; rows need no normalisation.
            seen (`list[bool]`, *optional*):
                Which classes have training images. `None`: the classes that the model was trained on
                (`config.trained_class_names`) are seen, all others unseen.
            class_parents (`dict[str, str]`, *optional*):
                Class or rank → the rank above it, see [`DednConfig`]. `None`: classes that stay keep their ranks.

        Raises:
            ValueError: If a name occurs twice, the sizes do not agree, a number is not finite, a row of
                `class_attributes` has nothing above 0, or `class_parents` go in a circle.
        """
        strangers = [names] if isinstance(names, str) else [name for name in names if not isinstance(name, str)]
        if strangers:
            raise ValueError(f"Class names must be a list of texts, but there is {strangers[0]!r}.")
        names = list(names)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Class names must differ, but {twice} occur more than once. Rename them.")
        try:
            class_attributes = torch.as_tensor(class_attributes)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"`class_attributes` must be a matrix of numbers: {error}") from None
        self._check_class_attributes(class_attributes)
        if len(class_attributes) != len(names):
            raise ValueError(
                f"There are {len(names)} class names but {len(class_attributes)} rows of `class_attributes`. "
                "Give one row a class."
            )
        if not names:
            raise ValueError("There are no class names. Give the model one class at least.")
        if not class_attributes.isfinite().all():
            raise ValueError("`class_attributes` holds numbers that are not finite. Correct them.")
        if unknown := [names[index] for index in rows_of_nothing(class_attributes)]:
            raise ValueError(
                f"Nothing is known of {len(unknown)} classes ({_first(unknown)}): their rows of `class_attributes` "
                "have nothing above 0. Describe each class by one attribute at least, or leave it out."
            )
        class_attributes = class_attributes.to(self.class_attributes)
        config = self.config
        if seen is None:
            trained = NameMatcher(config.trained_class_names)
            seen = [name in trained for name in names]
        elif len(seen) != len(names):
            raise ValueError(
                f"There are {len(names)} class names but {len(seen)} entries in `seen`. Give one truth value a class."
            )
        seen = [bool(value) for value in seen]
        class_parents = ranks_of(names, config.class_parents) if class_parents is None else read_parents(class_parents)
        newly_trained = {name for name, value in zip(names, seen) if value}.difference(config.trained_class_names)
        trained_class_names = config.trained_class_names + sorted(newly_trained)
        config.id2label = dict(enumerate(names))
        config.seen_class_ids = [index for index, value in enumerate(seen) if value]
        config.trained_class_names, config.class_parents = trained_class_names, class_parents
        self.class_attributes = class_attributes
        self.seen_classes = torch.tensor(seen, dtype=torch.bool, device=class_attributes.device)
        self._classes_changed()

    def set_attribute_calibration(self, calibration, statistics=None):
        """
        Stores what makes attribute scores readable, see [`~DednModel.attribute_probabilities`] and
        [`~DednModel.strengths_in_images`].

        Args:
            calibration (`torch.Tensor` or `np.ndarray` of shape `(2, A)`):
                Slopes a, none of them negative, and offsets b, as `fit_attribute_calibration` returns them.
            statistics (`torch.Tensor` or `np.ndarray` of shape `(2, A)`, *optional*):
                Mean and standard deviation of the scores of training images.

        Raises:
            ValueError: If a shape is another, a number is not finite, or a slope or standard deviation is negative.
        """
        calibration = torch.as_tensor(calibration).to(self.attribute_calibration)
        if calibration.shape != self.attribute_calibration.shape:
            raise ValueError(
                f"`calibration` has shape {tuple(calibration.shape)}, but the model has "
                f"{len(self.config.attribute_names)} attributes. Give a row of slopes and a row of offsets for them."
            )
        if not calibration.isfinite().all() or (calibration[0] < 0).any():
            raise ValueError("Slopes and offsets of a calibration must be finite, and no slope may be negative.")
        statistics = torch.as_tensor(torch.zeros_like(calibration) if statistics is None else statistics)
        if statistics.shape != calibration.shape or not statistics.isfinite().all() or (statistics[1] < 0).any():
            raise ValueError(
                "`statistics` must be a row of means and a row of standard deviations, finite and none of the latter "
                f"negative, of shape {tuple(calibration.shape)}; its shape is {tuple(statistics.shape)}."
            )
        self.attribute_calibration, self.attribute_statistics = calibration, statistics.to(calibration)
        self._find_attribute_levels()

    def attribute_probabilities(self, attribute_scores: torch.Tensor) -> torch.Tensor:
        """
        Attribute scores as a person can read them: σ(a·score + b), how strongly the class of the image has the
        attribute, on the scale of the class-attribute matrix divided by its largest entry.

        a and b were fitted for each attribute on the training images, so that attributes can be compared. They hold
        for scores in evaluation mode, with the mixes of the config. A model without them has a = 1 and b = 0.

        Args:
            attribute_scores (`torch.Tensor` of shape `(B, A)`):
                As in [`DednOutput`].

        Returns:
            `torch.Tensor` of shape `(B, A)`, from 0 to 1.
        """
        slope, offset = self.attribute_calibration.float()
        return (slope * attribute_scores.float() + offset).sigmoid()

    def strengths(self, class_attributes: torch.Tensor) -> torch.Tensor:
        """
        Rows of class attributes on the scale of the model's own matrix divided by its largest entry, as shares.

        Args:
            class_attributes (`torch.Tensor` of shape `(K', A)`):
                The rows, on the scale of the model's matrix.

        Returns:
            `torch.Tensor` of shape `(K', A)`, 0 or more.
        """
        return class_attributes.clamp(min=0) / self.class_attributes.max().clamp(min=1e-12).to(class_attributes)

    def strengths_in_images(self, attribute_scores: torch.Tensor) -> torch.Tensor:
        """
        How strongly a class has each attribute, by some images of it: as many standard deviations above or below the
        mean of the seen classes as the images' mean score is above or below that of training images.

        Unlike the mean of [`~DednModel.attribute_probabilities`], which draws what one image is unsure of towards the
        mean, it spreads as widely as classes do: as a description of a class it recognises more. A model without
        these statistics goes by that mean.

        Args:
            attribute_scores (`torch.Tensor` of shape `(N, A)`):
                Of N images of the class, as in [`DednOutput`].

        Returns:
            `torch.Tensor` of shape `(A,)`, from 0 to 1, as [`~DednModel.strengths`].
        """
        mean, std = self.attribute_statistics.float()
        if not std.any():
            return self.attribute_probabilities(attribute_scores).mean(dim=0)
        spread = self._known_strengths().std(dim=0, correction=0)
        deviations = (attribute_scores.float().mean(dim=0) - mean) / std.clamp(min=1e-12)
        deviations = torch.where(self._tells(), deviations, 0)
        return (self.usual_strengths() + deviations * spread).clamp(0, 1)

    def usual_strengths(self) -> torch.Tensor:
        """The mean strength of each attribute in the seen classes, in all if none is seen: `(A,)`, from 0 to 1."""
        return self._known_strengths().mean(dim=0)

    def _known_strengths(self) -> torch.Tensor:
        known = self.strengths(self.class_attributes.float())
        return known[self.seen_classes] if self.seen_classes.any() else known

    def set_class_fit(self, buffers: dict | None):
        """
        Stores what says how well a class explains an image, see [`ClassFit`].

        Args:
            buffers (`dict[str, torch.Tensor | np.ndarray]`, *optional*):
                The buffers of a [`ClassFit`] by name; its trained classes are the first of
                `config.trained_class_names`. `None` takes it away.
        """
        self.class_fit, self.config.class_fit_size = None, None
        if buffers is not None:
            buffers = {name: torch.as_tensor(values) for name, values in buffers.items()}
            self.config.class_fit_size = list(buffers["means"].shape)
            self.class_fit = ClassFit(len(self.config.attribute_names), *self.config.class_fit_size)
            self.class_fit.load_state_dict(buffers)
            self.class_fit.to(self.class_attributes)

    @property
    def knows_what_fits(self) -> bool:
        """Whether the model was taught how well a class explains an image."""
        return self.class_fit is not None and bool(self.class_fit.coefficients.any())

    def class_targets(
        self, class_attributes: torch.Tensor | None = None, names: list[str] | None = None
    ) -> ClassTargets | None:
        """
        What [`~DednModel.class_probabilities`] needs to know of candidates, once for many images.

        Args:
            class_attributes (`torch.Tensor` of shape `(K', A)`, *optional*, defaults to the model's own classes):
                Rows of the candidates.
            names (`list[str]`, *optional*):
                Their names: one that is of `config.trained_class_names` goes by its images.

        Returns:
            [`ClassTargets`], or `None` of a model that was not taught what fits.
        """
        if not self.knows_what_fits:
            return None
        if class_attributes is None:
            class_attributes, names = self.class_attributes, list(self.config.id2label.values())
        known = self.config.trained_class_names[: self.config.class_fit_size[0]]
        matcher, index_of = matcher_of(tuple(known)), {name: index for index, name in enumerate(known)}
        trained = [index_of.get(matcher.find(name)) for name in names]
        return self.class_fit.targets(self.strengths(class_attributes), trained)

    def class_probabilities(self, attribute_scores: torch.Tensor, targets: ClassTargets) -> torch.Tensor:
        """
        How well each candidate explains each image, by itself: it goes by how many candidates there are, and not by
        which.

        Args:
            attribute_scores (`torch.Tensor` of shape `(B, A)`):
                As in [`DednOutput`].
            targets ([`ClassTargets`]):
                Of the candidates.

        Returns:
            `torch.Tensor` of shape `(B, K')`, from 0 to 1: how probable it is that the image is of this class, where
            it is as likely to be of none that is known.
        """
        return self.class_fit(attribute_scores, targets)

    def _find_attribute_levels(self):
        """
        The score of each attribute where an image has as much of it as usual, by its calibration: that of its mean
        strength in the seen classes (in all, if none is seen), drawn a little towards ½, as if one class more had all
        of it and one had none.
        """
        slope, offset = self.attribute_calibration.float()
        strengths = self.strengths(self.class_attributes.float())
        seen = self.seen_classes.float() if self.seen_classes.any() else torch.ones_like(strengths[:, 0])
        usual = (seen @ strengths + 1) / (seen.sum() + 2)
        levels = torch.where(self._tells(), (usual.logit() - offset) / slope, 0)
        self.attribute_levels = levels.to(self.attribute_calibration)

    def _tells(self) -> torch.Tensor:
        """Which attributes have scores that tell anything of them, by the slopes of their calibration."""
        slope = self.attribute_calibration[0].float()
        return slope > 0.01 * slope.median()

    def _complete(self):
        """What a model that version 0.2 or before saved does not hold: the levels of its calibrated attributes."""
        buffers = (self.attribute_levels, self.attribute_calibration, self.class_attributes, self.seen_classes)
        if any(buffer.is_meta for buffer in buffers) or self.attribute_levels.any():
            return
        slope, offset = self.attribute_calibration
        if (slope != 1).any() or offset.any():
            self._find_attribute_levels()

    def set_backbone(self, backbone: PreTrainedModel):
        """
        Puts a pretrained backbone, kept frozen, before a model that was trained on the feature maps that it makes.

        Args:
            backbone (`PreTrainedModel`):
                See [`load_backbone`].
        """
        self.backbone = backbone.to(device=self.device, dtype=self.dtype)
        self.main_input_name = "pixel_values"
        self.config.backbone_config = copy.deepcopy(backbone.config)
        # It may be a path of this machine.
        self.config.backbone_config._name_or_path = ""
        self.config.freeze_backbone = True
        self.train(self.training)

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs):
        supported = self.backbone is not None and self.backbone.supports_gradient_checkpointing
        if enable and (self.backbone is None or self.config.freeze_backbone):
            raise ValueError(
                "Gradient checkpointing saves memory in a backbone that is trained, but this model has "
                f"{'none' if self.backbone is None else 'a frozen one'}: leave it off, or train a backbone along "
                "(`freeze_backbone=False`)."
            )
        if enable and not supported:
            raise ValueError(
                f"Gradient checkpointing is of the backbone, and a {type(self.backbone).__name__} has none: leave it "
                "off, or take a backbone that has it, such as a Swin or DINOv2."
            )
        if supported:
            self.backbone._set_gradient_checkpointing(enable, **kwargs)

    def get_feature_map(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Feature maps of preprocessed images, `(B, C, H, W)`, not normalised.

        Raises:
            ValueError: If the model has no backbone, or `pixel_values` is not a batch of images.
        """
        if self.backbone is None:
            raise ValueError(
                "This model has no backbone (`config.backbone_config` is None), so it takes no `pixel_values`: pass "
                "`feature_map` instead, or load the model with a backbone."
            )
        if pixel_values.ndim != 4:
            raise ValueError(
                f"`pixel_values` must have shape (B, 3, height, width), but have {tuple(pixel_values.shape)}. Give a "
                "single image a first dimension with `pixel_values[None]`."
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_backbone):
            # Convolutions are faster with the channels of a pixel side by side: a ResNet takes half the time on a CPU.
            return backbone_feature_map(self.backbone, pixel_values.contiguous(memory_format=torch.channels_last))

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        feature_map: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        class_attributes: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> DednOutput | tuple:
        r"""
        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, height, width)`, *optional*):
                Preprocessed images, for a model with a backbone.
            feature_map (`torch.Tensor` of shape `(B, C, H, W)`, *optional*):
                Feature maps of the images instead, before normalisation.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*):
                Class ids, also of another integer type or of shape `(B, 1)`; with them the loss is computed. The loss
                is the same in training and evaluation mode: it uses the sum of both attentions and the class bias ±β.
            class_attributes (`torch.Tensor` of shape `(K', A)`, *optional*):
                Classes to score in this call instead of the model's own, all of them taken for unseen.
            output_attentions (`bool`, *optional*, defaults to `config.output_attentions`):
                Whether to return where the region attention looks.
            return_dict (`bool`, *optional*, defaults to `config.return_dict`):
                Whether to return a [`DednOutput`] instead of a tuple.

        Raises:
            ValueError: If there is not exactly one of `pixel_values` and `feature_map`, a size differs from the
                config's, a label is out of range, both `labels` and `class_attributes` are given, or nothing is known
                of one of the model's classes.
        """
        output_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if (pixel_values is None) == (feature_map is None):
            raise ValueError("Pass exactly one of `pixel_values` (images) and `feature_map` (what a backbone gives).")
        if feature_map is None:
            feature_map = self.get_feature_map(pixel_values)
        self._check_inputs(feature_map, labels, class_attributes)

        # One row a region (B, R, C); its transpose has one row a channel.
        # (`self.dtype` asks the model's parameters, and a replica on one of several GPUs has none.)
        regions = feature_map.to(self.coarse_expert.heads[0].word_vectors.dtype).flatten(2).mT.contiguous()
        if self.config.normalize_features:
            # A float16 cannot hold what keeps a region of zeros from being divided by zero.
            regions = F.normalize(_at_least_float(regions), dim=-1).to(regions.dtype)

        region_value, region_weight, channel_value, channel_weight = self._folded(regions.device)
        pool = eager_pooling if self.config._attn_implementation == "eager" else attentive_pooling
        # Channels first: what they keep for the backward pass is most of it, and is then not the first to be let go.
        channel_scores = pool(regions.mT, channel_value, channel_weight)
        region_scores = pool(regions, region_value, region_weight)
        coarse_region, fine_region = region_scores.chunk(2, dim=-1)
        coarse_channel, fine_channel = channel_scores.chunk(2, dim=-1)

        if class_attributes is None:
            class_attributes, seen = self.class_attributes, self.seen_classes
        else:
            class_attributes = class_attributes.to(self.class_attributes)
            seen = torch.zeros_like(class_attributes[:, 0], dtype=torch.bool)
        class_rows = F.normalize(_at_least_float(class_attributes), dim=-1).to(coarse_region.dtype)

        if self.training:
            coarse, fine = coarse_region + coarse_channel, fine_region + fine_channel
            bias = self.config.class_bias
        else:
            c = self.config.region_mix
            coarse, fine = c * coarse_region + (1 - c) * coarse_channel, c * fine_region + (1 - c) * fine_channel
            bias = self.config.gamma / 2
        class_bias = torch.where(seen, -bias, bias).to(coarse.dtype)
        coarse_logits, fine_logits = coarse @ class_rows.T + class_bias, fine @ class_rows.T + class_bias
        e = self.config.coarse_mix

        loss = loss_parts = None
        if labels is not None:
            # Exponentials and cubes of scores: not for bfloat16.
            with torch.autocast(feature_map.device.type, enabled=False):
                loss, loss_parts = self._loss(
                    (coarse_region, coarse_channel), (fine_region, fine_channel), class_rows, seen, labels
                )

        attentions = None
        if output_attentions:
            maps = attention_weights(regions, region_weight).unflatten(2, feature_map.shape[2:])
            attentions = dict(zip(("coarse", "fine"), maps.chunk(2, dim=1)))

        output = DednOutput(
            loss=loss,
            logits=e * coarse_logits + (1 - e) * fine_logits,
            attribute_scores=e * coarse + (1 - e) * fine,
            coarse_logits=coarse_logits,
            fine_logits=fine_logits,
            expert_scores=torch.stack([region_scores, channel_scores], dim=1).unflatten(2, (2, -1)).transpose(1, 2),
            loss_parts=loss_parts,
            attentions=attentions,
        )
        return output if return_dict else output.to_tuple()

    @torch.no_grad()
    def predict(
        self,
        pixel_values: torch.Tensor | None = None,
        feature_map: torch.Tensor | None = None,
        class_attributes: torch.Tensor | None = None,
        seen: torch.Tensor | None = None,
        calibration: float | None = None,
        output_attentions: bool | None = None,
        average_flips: bool = False,
    ) -> DednPrediction:
        r"""
        The classes, attributes and attention of images, without gradients: what evaluation, explanations and the
        pipeline all go by.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, height, width)`, *optional*):
                As in [`~DednModel.forward`].
            feature_map (`torch.Tensor` of shape `(B, C, H, W)`, *optional*):
                As in [`~DednModel.forward`].
            class_attributes (`torch.Tensor` of shape `(K', A)`, *optional*):
                Candidates of this call instead of the model's own classes.
            seen (`torch.BoolTensor` of shape `(K',)`, *optional*, defaults to none of them):
                Which of these candidates the model was trained on.
            calibration (`float`, *optional*, defaults to `config.gamma`):
                γ: how far seen candidates are set back against the others.
            output_attentions (`bool`, *optional*, defaults to `config.output_attentions`):
                Whether to return where the region attention looks.
            average_flips (`bool`, *optional*, defaults to `False`):
                Whether to take the mean of what is said of an image and of its mirror image, for twice the time.

        Returns:
            [`DednPrediction`].

        Raises:
            ValueError: If the model is in training mode, `seen` is not one truth value for each row of
                `class_attributes`, feature maps are to be mirrored, or what [`~DednModel.forward`] raises.
        """
        if self.training:
            raise ValueError("`predict` needs the model in evaluation mode: call `model.eval()` first.")
        if self.class_attributes.is_meta:
            raise ValueError(
                "The model's class attributes are on the meta device: offload its parameters alone, without "
                "`offload_buffers`."
            )
        if seen is not None and (class_attributes is None or seen.shape != class_attributes.shape[:1]):
            raise ValueError("`seen` goes with `class_attributes`: give one truth value for each of their rows.")
        options = {"class_attributes": class_attributes, "output_attentions": output_attentions, "return_dict": True}
        output = self(pixel_values, feature_map, **options)
        if average_flips:
            if pixel_values is None:
                raise ValueError(
                    "A mirrored feature map is not that of the mirrored image: with `average_flips` give "
                    "`pixel_values`."
                )
            flipped = self(pixel_values.flip(-1), **options)
            for name in ("logits", "attribute_scores", "expert_scores"):
                output[name] = (output[name] + flipped[name]) / 2
            if output.attentions is not None:
                output.attentions = {
                    name: (maps + flipped.attentions[name].flip(-1)) / 2 for name, maps in output.attentions.items()
                }

        setback = self.config.gamma if calibration is None else calibration
        if class_attributes is None:
            class_attributes, seen = self.class_attributes, self.seen_classes
            # Of the model's own classes, `forward` has set the seen ones back by the config's γ already.
            setback -= self.config.gamma
        logits = output.logits.float()
        if seen is not None:
            logits = logits - setback * seen.to(logits)

        attribute_scores, class_rows = (
            output.attribute_scores.float(),
            class_attributes.to(self.class_attributes).float(),
        )
        best = logits.sort(dim=-1, descending=True, stable=True).indices[:, :2]

        attentions = None
        if output.attentions is not None:
            coarse, fine = (output.attentions[name].float() for name in ("coarse", "fine"))
            share = self.config.coarse_mix
            attentions = {"coarse": coarse, "fine": fine, "mixed": share * coarse + (1 - share) * fine}

        return DednPrediction(
            logits=logits,
            attribute_scores=attribute_scores,
            attribute_probabilities=self.attribute_probabilities(attribute_scores),
            contributions=self.contributions(attribute_scores, class_rows[best[:, 0]], class_rows[best[:, -1]]),
            expert_scores=output.expert_scores.float(),
            attentions=attentions,
        )

    def contributions(self, attribute_scores: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """
        What each attribute adds to the difference of the scores of two classes, see [`DednPrediction`].

        Args:
            attribute_scores (`torch.Tensor` of shape `(B, A)`):
                Of the images; float32, as all three.
            first (`torch.Tensor` of shape `(B, A)`), second (`torch.Tensor` of shape `(B, A)`):
                Rows of class attributes of the class that each image is taken for, and of the one that it is not.

        Returns:
            `torch.Tensor` of shape `(B, A)`.
        """
        first, second = (F.normalize(rows, dim=-1) for rows in (first, second))
        return (first - second) * (attribute_scores - self.attribute_levels.float()) * self._tells()

    def _folded(self, device: torch.device) -> list[torch.Tensor]:
        """
        Both experts side by side: 2A attributes, and for each what the map is multiplied with.

        For one image this is much of the work, so in inference on a CPU it is kept for as long as the parameters are
        the same; unless something has been put around the experts' modules, or in their place, that counts on their
        being called.
        """
        modules = parameters = []
        if not (self.training or torch.is_grad_enabled()) and can_look_at_values():
            modules = [module for expert in (self.coarse_expert, self.fine_expert) for module in expert.modules()]
            parameters = [parameter for module in modules for parameter in module.parameters(recurse=False)]
        if not (parameters and all(map(_is_plain, modules)) and all(map(_is_float_on_cpu, parameters))):
            self._kept = None
            return self._fold(device)

        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        # By their contents, because nothing counts what is changed through `parameter.data`. Any change that could
        # show in a score shows in these sums, and they take a quarter of the time.
        if self._kept is None:
            numbers, generator = max(map(torch.numel, parameters)), torch.Generator().manual_seed(0)
            weights = 1 + torch.rand(numbers, generator=generator, dtype=torch.float32, device="cpu")
            self._kept = (weights, None, None, None)
        weights, *state, folded = self._kept
        sums = torch.stack([torch.dot(values.flatten(), weights[: values.numel()]) for values in parameters])
        if state[0] != autocast or not torch.equal(state[1], sums):
            folded = self._fold(device)
            self._kept = (weights, autocast, sums, folded)
        return folded

    def _fold(self, device: torch.device) -> list[torch.Tensor]:
        # An expert may have been put on a device of its own.
        experts = (self.coarse_expert(), self.fine_expert())
        return [torch.cat([rows.to(device) for rows in pair]) for pair in zip(*experts)]

    def __getstate__(self):
        return self.__dict__ | {"_kept": None}

    def _loss(self, coarse, fine, class_rows, seen, labels):
        """The total loss and its terms; `coarse` and `fine` are attribute scores by region and channel attention."""
        config = self.config
        has_unseen = len(config.seen_class_ids) < config.num_labels
        class_rows, labels = _at_least_float(class_rows), labels.flatten().long()
        class_bias = torch.where(seen, -config.class_bias, config.class_bias)
        parts, biased = {}, []
        for name, (by_region, by_channel) in (("coarse", coarse), ("fine", fine)):
            by_region, by_channel = _at_least_float(by_region), _at_least_float(by_channel)
            scores = (by_region + by_channel) @ class_rows.T
            biased.append(scores + class_bias)
            parts[f"{name}_margin"] = margin_loss(scores, labels, seen, config.target_margin, config.seen_margin)
            parts[f"{name}_calibration"] = (
                self_calibration_loss(biased[-1], seen) if has_unseen else scores.new_zeros(())
            )
            parts[f"{name}_alignment"] = distillation_distance(by_region, by_channel)
        parts["distillation"] = distillation_distance(*biased)
        loss = (
            parts["coarse_margin"]
            + parts["fine_margin"]
            + config.self_calibration_weight * (parts["coarse_calibration"] + parts["fine_calibration"])
            + config.distillation_weight * parts["distillation"]
            + config.alignment_weight * (parts["coarse_alignment"] + parts["fine_alignment"])
        )
        return loss, parts

    def _check_inputs(self, feature_map, labels, class_attributes):
        expected = (self.config.feature_channels, self.config.grid_size, self.config.grid_size)
        if tuple(feature_map.shape[1:]) != expected:
            raise ValueError(
                f"A feature map of this model is {expected[0]} channels × {expected[1]} × {expected[2]} "
                f"(`feature_channels`, `grid_size`), but this one has shape {tuple(feature_map.shape)}. Use the image "
                "size and backbone that the model was made for, or set both in the config of a new model."
            )
        if class_attributes is not None:
            if labels is not None:
                raise ValueError(
                    "`labels` are ids of the model's own classes and cannot go with `class_attributes` of one call. "
                    "Use `set_classes` to train on or evaluate other classes."
                )
            self._check_class_attributes(class_attributes)
        else:
            self.check_classes()
        if labels is not None and (
            labels.is_floating_point() or labels.dtype == torch.bool or labels.numel() != len(feature_map)
        ):
            raise ValueError(
                f"`labels` must be a class id, an integer, for each of the {len(feature_map)} images, but they are "
                f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}. Give each image one "
                "integer."
            )
        if labels is not None and can_look_at_values():
            lowest, highest = labels.min().item(), labels.max().item()
            if lowest < 0 or highest >= self.config.num_labels:
                raise ValueError(
                    f"Labels must be from 0 to {self.config.num_labels - 1}, the model's {self.config.num_labels} "
                    f"classes, but these are from {lowest} to {highest}. Name all classes with `set_classes`."
                )

    def _check_class_attributes(self, class_attributes):
        expected = len(self.config.attribute_names)
        if class_attributes.dim() != 2 or class_attributes.shape[1] != expected:
            raise ValueError(
                f"`class_attributes` must have one row a class and one column for each of the model's {expected} "
                f"attributes, but its shape is {tuple(class_attributes.shape)}. `config.attribute_names` has their "
                "order."
            )


__all__ = ["DednModel", "DednOutput", "DednPreTrainedModel", "DednPrediction"]
