from importlib import import_module

from .calibration import (
    SeenUnseenCurve,
    SelectedCalibration,
    ausuc,
    best_calibration,
    choose_mixes,
    mix_expert_scores,
    seen_unseen_curve,
)
from .metrics import (
    expected_calibration_error,
    gzsl_metrics,
    harmonic_mean,
    mean_per_class_accuracy,
    per_class_accuracy,
    reliability_bins,
    top_confusions,
)

# Imported when they are first asked for, since they need libraries that take long to import.
_LAZY = {
    "AttributeLocalisation": ".localisation",
    "explain_image": ".explanation",
    "plot_explanation": ".explanation",
}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__all__ = [
    "AttributeLocalisation",
    "SeenUnseenCurve",
    "SelectedCalibration",
    "ausuc",
    "best_calibration",
    "choose_mixes",
    "expected_calibration_error",
    "explain_image",
    "gzsl_metrics",
    "harmonic_mean",
    "mean_per_class_accuracy",
    "mix_expert_scores",
    "per_class_accuracy",
    "plot_explanation",
    "reliability_bins",
    "seen_unseen_curve",
    "top_confusions",
]
