"""Traffic of a real agent that is not in the repository: the folder that UNDERSTUDY_AIRLINE names,
else shared/data/airline beside the checkout."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path(os.environ.get("UNDERSTUDY_AIRLINE") or ROOT.parent / "shared" / "data" / "airline")


def found(file: Path) -> bool:
    """Whether a file of it is there; a line says so where it is not."""
    if not file.exists():
        print(f"  skipped: there is no {file}")
    return file.exists()
