"""Visual tokens in a request to a server that takes prompt embeddings."""

from __future__ import annotations

import base64
import io

import torch
from torch import Tensor


def embeds_data(tokens: Tensor) -> str:
    """(N, D) visual tokens on the CPU -> as `torch.save` writes them, in base64, which vLLM takes."""
    content = io.BytesIO()
    torch.save(tokens.clone(), content)  # of a part of a larger tensor, torch saves all
    return base64.b64encode(content.getvalue()).decode("ascii")
