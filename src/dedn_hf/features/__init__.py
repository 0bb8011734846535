"""From a backbone, or a file of feature maps, to a store that training reads."""

from .store import FeatureMapDataset, FeatureMapStore

__all__ = ["FeatureMapDataset", "FeatureMapStore"]
