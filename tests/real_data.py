"""Where the real data sets are that tests marked `real_data` read; they are skipped where there are none."""

import os
from pathlib import Path

DATA_DIR = Path(os.environ.get("DEDN_DATA_DIR", Path(__file__).parents[2] / "shared" / "data"))
