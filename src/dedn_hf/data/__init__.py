from .dataset import GzslDataset
from .load import load_gzsl_dataset
from .splits import fingerprint_split

__all__ = ["GzslDataset", "fingerprint_split", "load_gzsl_dataset"]
