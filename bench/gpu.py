"""What the benchmarks do with a GPU."""

import torch


def wait() -> None:
    """Until a GPU is done with what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
