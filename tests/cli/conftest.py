import sys
from pathlib import Path

for room in ("gateway", "world"):  # stub_upstream, warehouse
    sys.path.insert(0, str(Path(__file__).parent.parent / room))
