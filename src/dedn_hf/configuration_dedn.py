"""DEDN model configuration."""

import difflib
import inspect
import math
from collections import Counter
from numbers import Integral, Real

from transformers import AutoConfig, PretrainedConfig

from .names_dedn import NameMatcher
from .ranks_dedn import read_parents


class _RegisteredPipelines(dict):
    """
    `config.custom_pipelines` where this package is installed: `pipeline(model=…)` reads its task there, and then takes
    the pipeline that is registered for it, not the model's own, which would ask for trust in its code.
    """

    def __contains__(self, task):
        return False


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
        freeze_batch_norm (`bool`, *optional*, defaults to `False`):
            Whether batch norms of a backbone that is trained along keep the running statistics that they came with,
            and go by them in training, too: for a pretrained one. Their scales and shifts are trained.
        feature_channels (`int`, *optional*, defaults to 2048):
            Channels C of a feature map.
        grid_size (`int`, *optional*, defaults to 14):
            Side r of a feature map, which has R = r² regions.
        attribute_names (`list[str]`, *optional*, defaults to `[]`):
            The A attributes, in the order of the columns of the class-attribute matrix.
        attribute_groups (`dict[str, list[int]]`, *optional*):
            Name of each head of the fine expert → indices of its attributes: a partition of all attributes. Heads are
            in the order of the names. `None` is one group `"all"`.
        attribute_terms (`dict[str, list[str]]`, *optional*, defaults to `{}`):
            Words of people for attributes, beside those that [`understand`] knows: word or phrase → what it is read
            as, names of attributes or words of their names, such as `{"corolla": ["petal"]}`.
        word_vector_size (`int`, *optional*, defaults to 300):
            Width D of the attributes' word vectors.
        region_value_rank (`int`, *optional*):
            Rank h of the region values' matrix, factored as for SUN. `None` is the full matrix.
        region_value_std (`float`, *optional*):
            Standard deviation of the second of its two factors in a new model. `None` is 1/√h, with which their
            product has that of the full matrix; the released program has 1, and scores that start √h times as large.
        normalize_features (`bool`, *optional*, defaults to `True`):
            Whether each region of a feature map is L2-normalised over its channels.
        seen_class_ids (`list[int]`, *optional*):
            Ids of the seen classes, those with training images. `None` is all classes.
        trained_class_names (`list[str]`, *optional*):
            Names of the classes that the model was trained on, which stay when the model is given other classes. Those
            of `seen_class_ids` are among them, given or not.
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
        score_scale (`float`, *optional*, defaults to 1.0):
            What the logits are multiplied with before the softmax that gives a label's score, so that it is as often
            right as it says: an inverse temperature, which changes no order. The `validated` protocol fits it.
        class_fit_size (`list[int]`, *optional*):
            Numbers of trained classes and of directions of the model's [`ClassFit`], which says how well a class
            explains an image; `None` is a model without. The `validated` protocol fits it.
        class_parents (`dict[str, str]`, *optional*, defaults to `{}`):
            Class or rank → the rank above it, such as a bird's family, and the family's order: for the `ranks` of a
            result. Classes without one stand for themselves.
        kwargs (*optional*):
            As in [`PretrainedConfig`], among them `id2label` and `label2id`, which name the K classes.

    `label2id` is `id2label` the other way round, always: setting one sets both. Where all classes are seen, or all
    attributes are in one group, it stays so when `id2label` or `attribute_names` is set to more or fewer.

    Raises:
        ValueError: If `attribute_groups` is no partition of the attributes, `seen_class_ids` names a class that does
            not exist, names occur twice, `id2label`, `label2id` and `num_labels` do not agree, a mix lies outside
            [0, 1], `class_parents` go in a circle, or a setting is of the wrong kind.
        TypeError: If a keyword is none of these, but looks like one of them.

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
        freeze_batch_norm=False,
        feature_channels=2048,
        grid_size=14,
        attribute_names=None,
        attribute_groups=None,
        attribute_terms=None,
        word_vector_size=300,
        region_value_rank=None,
        region_value_std=None,
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
        score_scale=1.0,
        class_fit_size=None,
        class_parents=None,
        **kwargs,
    ):
        _check_spelling(kwargs)
        _check_dtype(kwargs.get("dtype"))
        self.backbone_config = backbone_config
        self.freeze_backbone = freeze_backbone
        self.freeze_batch_norm = freeze_batch_norm
        self.feature_channels = feature_channels
        self.grid_size = grid_size
        self.attribute_names = [] if attribute_names is None else attribute_names
        self.attribute_groups = attribute_groups or {"all": range(len(self.attribute_names))}
        self.attribute_terms = {} if attribute_terms is None else attribute_terms
        self.word_vector_size = word_vector_size
        self.region_value_rank = region_value_rank
        self.region_value_std = region_value_std
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
        self.score_scale = score_scale
        self.class_fit_size = class_fit_size
        self.class_parents = {} if class_parents is None else class_parents

        names = {name: kwargs.pop(name, None) for name in ("id2label", "label2id", "num_labels")}
        # Not by the base class, which refuses it for any attention but its own.
        output_attentions = kwargs.pop("output_attentions", False)
        super().__init__(id2label=_read_classes(**names), **kwargs)
        self.output_attentions = output_attentions

        self.seen_class_ids = range(self.num_labels) if seen_class_ids is None else seen_class_ids
        self.trained_class_names = [] if trained_class_names is None else trained_class_names
        self.validate()

    def __setattr__(self, name, value):
        if name == "id2label" and value is not None:
            value = _read_classes(value)
            if _is_all(self.__dict__.get("seen_class_ids"), self.__dict__.get("id2label")):
                self.seen_class_ids = list(value)
        elif name == "backbone_config":
            value = _read_backbone_config(value)
        elif name == "attribute_names":
            value = _read_names("attribute_names", value)
            groups = self.__dict__.get("attribute_groups")
            if isinstance(groups, dict) and len(groups) == 1 and _is_all(*groups.values(), self.attribute_names):
                self.attribute_groups = {group: list(range(len(value))) for group in groups}
        elif name == "custom_pipelines" and __name__.startswith("dedn_hf."):
            value = _RegisteredPipelines(value)
        super().__setattr__(name, value)
        if name == "id2label":
            self._remember_seen_classes()

    def _remember_seen_classes(self):
        """A seen class is one that the model was trained on, also under a new name."""
        trained, ids = self.__dict__.get("trained_class_names"), self.__dict__.get("seen_class_ids")
        if isinstance(trained, list) and isinstance(ids, list):
            names = [self.id2label[index] for index in ids if index in self.id2label]
            self.trained_class_names = list(dict.fromkeys(trained + names))

    @property
    def label2id(self) -> dict[str, int]:
        """Name of each class → its id: `id2label` the other way round."""
        return {name: index for index, name in self.id2label.items()}

    @label2id.setter
    def label2id(self, value):
        if value is not None:
            self.id2label = _read_classes(label2id=value)

    @property
    def num_labels(self) -> int:
        """Number K of classes."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value):
        if value != self.num_labels:
            self.id2label = _read_classes(num_labels=value)

    @property
    def output_attentions(self) -> bool:
        """Whether the model returns where its region attention looks, for any `attn_implementation`."""
        return self._output_attentions

    @output_attentions.setter
    def output_attentions(self, value):
        self._output_attentions = value

    def to_dict(self) -> dict:
        """As [`PretrainedConfig.to_dict`], with the attention where it is not the default."""
        attention = {"attn_implementation": "eager"} if self._attn_implementation == "eager" else {}
        return super().to_dict() | attention | {"label2id": self.label2id}

    def __eq__(self, other):
        """Whether all settings are the same, whatever the configs were loaded from."""
        if not isinstance(other, DednConfig):
            return NotImplemented
        mine, theirs = self.to_dict(), other.to_dict()
        return all(mine.get(name) == theirs.get(name) for name in mine.keys() | theirs if name not in _ORIGIN)

    __hash__ = None

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs):
        """As [`PretrainedConfig.get_config_dict`]; a ValueError for a file that holds no names and values."""
        try:
            return super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        except TypeError as error:
            raise ValueError(
                f"The config.json of {pretrained_model_name_or_path} must hold names and values: {error}."
            ) from error

    @classmethod
    def from_dict(cls, config_dict, return_unused_kwargs=False, **kwargs):
        """
        As [`PretrainedConfig.from_dict`]; what is changed on loading must agree with the rest, as if it were given to
        the class.
        """
        changes = {name: kwargs.pop(name) for name in _SETTINGS if name in kwargs and name != "backbone_config"}
        try:
            config, unused = super().from_dict(config_dict, return_unused_kwargs=True, **kwargs)
        except TypeError as error:  # of what stands in a file: nothing is called wrongly, but the file is wrong
            raise ValueError(f"The config.json that is read is none of DEDN: {error}") from error
        _check_spelling(unused)
        config._change(changes)
        return (config, unused) if return_unused_kwargs else config

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

    def validate(self):
        """
        Brings what was set to plain Python, and raises what the class raises: for a config that was changed after it
        was made. Saving calls it, and so does [`DednModel`].
        """
        for name in ("feature_channels", "grid_size", "word_vector_size", "region_value_rank"):
            if name != "region_value_rank" or self.region_value_rank is not None:
                setattr(self, name, _read_integer(name, getattr(self, name)))
        for name in ("region_value_std", "class_bias", "calibration", "target_margin", "seen_margin"):
            if name not in ("region_value_std", "calibration") or getattr(self, name) is not None:
                setattr(self, name, _read_number(name, getattr(self, name)))
        if self.region_value_std is not None and self.region_value_std < 0:
            raise ValueError(f"`region_value_std` cannot be negative, but it is {self.region_value_std}.")
        for name in ("self_calibration_weight", "distillation_weight", "alignment_weight"):
            setattr(self, name, _read_number(name, getattr(self, name)))
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is a weight and cannot be negative, but it is {getattr(self, name)}.")
        for name in ("region_mix", "coarse_mix"):
            setattr(self, name, _read_number(name, getattr(self, name)))
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is a share and must lie in [0, 1], but it is {getattr(self, name)}.")
        self.score_scale = _read_number("score_scale", self.score_scale)
        if self.score_scale <= 0:
            raise ValueError(f"`score_scale` must be above 0, but it is {self.score_scale}.")
        if self.class_fit_size is not None:
            self.class_fit_size = _read_ids("class_fit_size", self.class_fit_size, unique=False)
            if len(self.class_fit_size) != 2 or min(self.class_fit_size) < 1:
                raise ValueError(
                    "`class_fit_size` must be the number of trained classes and that of directions, but it is "
                    f"{self.class_fit_size}."
                )
        self.class_parents = read_parents(self.class_parents)
        for name in ("freeze_backbone", "freeze_batch_norm", "normalize_features"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"`{name}` must be True or False, but it is {getattr(self, name)!r}.")
        self.trained_class_names = _read_names("trained_class_names", self.trained_class_names)
        self.seen_class_ids = _read_ids("seen_class_ids", self.seen_class_ids)
        # These may have been changed from inside.
        self.id2label, self.attribute_names = self.id2label, self.attribute_names
        self._check_groups()
        self._check_terms()
        strangers = [index for index in self.seen_class_ids if not 0 <= index < self.num_labels]
        if strangers:
            raise ValueError(
                f"`seen_class_ids` holds {strangers}, but there are {self.num_labels} classes, with ids from 0. "
                "Name all classes in `id2label`, or correct the ids."
            )

    def _check_groups(self):
        if not isinstance(self.attribute_groups, dict):
            raise ValueError(
                "`attribute_groups` must be a dict of a group's name → indices of its attributes, but it is "
                f"{self.attribute_groups!r}."
            )
        # By name, because config.json is: the heads' order must outlive a round trip.
        self.attribute_groups = {
            name: _read_ids("attribute_groups", indices, unique=False)
            for name, indices in sorted((str(name), indices) for name, indices in self.attribute_groups.items())
        }
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

    def _check_terms(self):
        if not isinstance(self.attribute_terms, dict) or not all(
            isinstance(term, str) for term in self.attribute_terms
        ):
            raise ValueError(
                "`attribute_terms` must be a dict of a word → the attributes or words that it is read as, but it is "
                f"{self.attribute_terms!r}."
            )
        self.attribute_terms = {
            term: _read_names(f"attribute_terms[{term!r}]", targets) for term, targets in self.attribute_terms.items()
        }
        if empty := [term for term, targets in self.attribute_terms.items() if not term.strip() or not targets]:
            raise ValueError(f"`attribute_terms` reads {empty[0]!r} as nothing. Name what it means, or leave it out.")

    def _change(self, changes: dict):
        """Settings of a loaded config that are given anew."""
        names = {name: changes.pop(name) for name in ("id2label", "label2id", "num_labels") if name in changes}
        if any(value is not None for value in names.values()):
            if names.keys() == {"num_labels"} and names["num_labels"] == self.num_labels:
                names["id2label"] = self.id2label
            id2label = _read_classes(**names)
            _check_order("id2label", list(self.id2label.values()), list(id2label.values()))
            if len(id2label) == self.num_labels:
                renamed = {old: id2label[index] for index, old in self.id2label.items()}
                self.class_parents = {
                    renamed.get(name, name): renamed.get(parent, parent) for name, parent in self.class_parents.items()
                }
            else:
                trained = NameMatcher(self.trained_class_names)
                self.seen_class_ids = [index for index, name in id2label.items() if name in trained]
            self.id2label = id2label
        before = list(self.attribute_names)
        for name, value in changes.items():
            setattr(self, name, value)
        _check_order("attribute_names", before, self.attribute_names)
        if "attribute_terms" not in changes:
            renamed = dict(zip(before, self.attribute_names))
            self.attribute_terms = {
                term: [renamed.get(target, target) for target in targets]
                for term, targets in self.attribute_terms.items()
            }
        if changes or names:
            self.validate()


# What a DednConfig is given by name.
_SETTINGS = [*inspect.signature(DednConfig).parameters, "id2label", "label2id", "num_labels"]
_SETTINGS.remove("kwargs")
# What tells where a config came from.
_ORIGIN = ("_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype", "transformers_version")


def _check_spelling(names):
    """transformers keeps what it does not know, so that nothing would come of a setting that is misspelt."""
    for name in names.keys() - dir(PretrainedConfig):
        if closest := difflib.get_close_matches(name, _SETTINGS, n=1, cutoff=0.8):
            raise TypeError(f"DednConfig has no setting `{name}`. Do you mean `{closest[0]}`?")


def _check_dtype(dtype):
    """transformers takes any text for a name of torch."""
    if isinstance(dtype, str):
        import torch

        if not isinstance(getattr(torch, dtype.removeprefix("torch."), None), torch.dtype):
            raise ValueError(f"`dtype` must be a type of numbers of torch, such as 'float32', but it is {dtype!r}.")


def _read_integer(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"`{name}` must be a whole number from 1 up, but it is {value!r}.")
    return int(value)


def _read_number(name: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, but it is {value!r}.")
    return value if isinstance(value, int) else float(value)


def _read_ids(name: str, value, unique: bool = True) -> list[int]:
    value = value.tolist() if hasattr(value, "tolist") else value
    strangers = [value]
    if isinstance(value, (list, tuple, set, range)):
        strangers = [index for index in value if isinstance(index, bool) or not isinstance(index, Integral)]
    if strangers:
        raise ValueError(f"`{name}` must be ids in a list, which are whole numbers, but there is {strangers[0]!r}.")
    ids = list(map(int, value))
    twice = [index for index, count in Counter(ids).items() if count > 1]
    if unique and twice:
        raise ValueError(f"`{name}` holds {twice} more than once. Give each id once.")
    return ids


def _read_names(name: str, value) -> list[str]:
    value = value.tolist() if hasattr(value, "tolist") else value
    strangers = [value]
    if isinstance(value, (list, tuple)):
        strangers = [entry for entry in value if not isinstance(entry, str)]
    if strangers:
        raise ValueError(f"`{name}` must hold names, which are texts, but there is {strangers[0]!r}.")
    twice = [entry for entry, count in Counter(value).items() if count > 1]
    if twice:
        raise ValueError(f"`{name}` holds {twice} more than once. Names must differ.")
    return list(map(str, value))


def _read_classes(id2label=None, label2id=None, num_labels=None) -> dict[int, str]:
    """Ids 0, 1, … → names of the classes, from whichever of the three are given; those that are must agree."""
    if num_labels is not None:
        num_labels = _read_integer("num_labels", num_labels)
    for name, value in (("id2label", id2label), ("label2id", label2id)):
        if value is not None and not isinstance(value, dict):
            raise ValueError(
                f"`{name}` must be a dict of ids and names of classes, but it is {value!r}. From a list of names, "
                "`dict(enumerate(names))` makes an `id2label`."
            )
    if id2label is None and label2id is None:
        return {index: f"LABEL_{index}" for index in range(2 if num_labels is None else num_labels)}

    given = "label2id" if id2label is None else "id2label"
    pairs = [(index, name) for name, index in label2id.items()] if id2label is None else list(id2label.items())
    try:
        # JSON has only texts for keys.
        named = {int(index) if isinstance(index, str) else index: name for index, name in pairs}
        ids = sorted(named)
    except (ValueError, TypeError):
        ids = [index for index, _ in pairs]
        raise ValueError(f"Ids of classes in `{given}` must be whole numbers, but they are {ids}.") from None
    if ids != list(range(len(pairs))) or not ids:
        raise ValueError(
            f"Ids of classes in `{given}` must be 0, 1, … without a gap, one class at least, but they are {ids}. "
            "`dict(enumerate(names))` makes an `id2label`."
        )
    names = _read_names("id2label", [named[index] for index in ids])
    if num_labels is not None and num_labels != len(names):
        raise ValueError(f"`num_labels` is {num_labels}, but `id2label` names {len(names)} classes. Give one of them.")
    if id2label is not None and label2id is not None:
        ids = {name: index for index, name in enumerate(names)}
        strangers = [name for name in ids | label2id if label2id.get(name, -1) != ids.get(name)]
        if strangers:
            raise ValueError(
                f"`label2id` and `id2label` do not agree about {strangers[0]!r}. Leave `label2id` out: it is "
                "`id2label` the other way round."
            )
    return dict(enumerate(names))


def _read_backbone_config(value):
    if value is None or isinstance(value, PretrainedConfig):
        return value
    if not isinstance(value, dict) or "model_type" not in value:
        raise ValueError(
            "`backbone_config` must be the config of a vision model, or its dict with a `model_type`, but it is "
            f"{value!r}. `AutoConfig.from_pretrained(name)` loads one."
        )
    try:
        return AutoConfig.for_model(**value)
    except ValueError as error:
        if "Unrecognized model identifier" not in str(error):
            raise
        raise ValueError(
            f"`backbone_config` has the `model_type` {value['model_type']!r}, which the installed transformers does "
            "not know. Update transformers, or use another backbone."
        ) from None


def _is_all(ids, things) -> bool:
    return isinstance(ids, (list, range)) and things is not None and list(ids) == list(range(len(things)))


def _check_order(setting: str, before: list[str], after: list[str]):
    """Names may be changed where a model is loaded, but what they name stays where it is."""
    places = {name: index for index, name in enumerate(before)}
    found = zip(after, NameMatcher(before).find_all(after))
    moved = [name for index, (name, known) in enumerate(found) if places.get(known, index) != index]
    if moved and len(before) == len(after):
        raise ValueError(
            f"`{setting}` gives {moved[0]!r} another place than the model that is loaded, whose class attributes stay "
            "where they are. Keep the order of its names, and change classes with `set_classes` after loading."
        )


__all__ = ["DednConfig"]
