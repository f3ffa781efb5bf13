"""An untrained adapter, to try the commands with: python untrained_adapter.py SHARED.arrow LLM OUT.pt."""

import sys
from pathlib import Path

import torch

from vocabkit.adapter import LangBridgeAdapter
from vocabkit.adapter_config import AdapterConfig
from vocabkit.shared import open_shared

shared_file, llm, out = sys.argv[1:]
shared = open_shared(Path(shared_file))
torch.manual_seed(0)
adapter = LangBridgeAdapter(AdapterConfig.of(shared, llm=llm, vision_width=1024, hidden_width=64), shared)
adapter.save(out)
print(f"{out}: an UNTRAINED linear adapter over {len(shared):,} shared tokens, as if trained with {llm}")
