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

__all__ = [
    "SeenUnseenCurve",
    "SelectedCalibration",
    "ausuc",
    "best_calibration",
    "choose_mixes",
    "expected_calibration_error",
    "gzsl_metrics",
    "harmonic_mean",
    "mean_per_class_accuracy",
    "mix_expert_scores",
    "per_class_accuracy",
    "reliability_bins",
    "seen_unseen_curve",
    "top_confusions",
]
