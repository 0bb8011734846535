"""The model of the synthetic birds that `make demo` trains: a real one, and small."""

from pathlib import Path

SYNTHETIC_MODEL = Path(__file__).parent / "models" / "synthetic_birds"
