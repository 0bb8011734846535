from .dataset import GzslDataset
from .splits import fingerprint_split

__all__ = ["GzslDataset", "fingerprint_split"]
