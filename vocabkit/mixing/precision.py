"""The precision in which scores, exponentials and sums are computed."""

from __future__ import annotations

import torch


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums and exponentials are computed in: float32 for half precision, else `dtype`."""
    return dtype if dtype == torch.float64 else torch.float32
