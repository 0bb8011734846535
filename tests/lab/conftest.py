import sys
from pathlib import Path

# Where a script of the laboratory stands, those beside it can be imported.
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "lab"))
