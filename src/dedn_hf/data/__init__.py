from importlib import import_module

# Imported when they are first asked for: a table of classes can be read without torch.
_LAZY = {"GzslDataset": ".dataset", "fingerprint_split": ".splits", "load_gzsl_dataset": ".load"}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["GzslDataset", "fingerprint_split", "load_gzsl_dataset"]
