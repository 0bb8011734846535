from .calibration import ausuc, best_calibration, choose_mixes, mix_expert_scores, seen_unseen_curve
from .metrics import gzsl_metrics

__all__ = [
    "ausuc",
    "best_calibration",
    "choose_mixes",
    "gzsl_metrics",
    "mix_expert_scores",
    "seen_unseen_curve",
]
