"""Run `vocabkit` in one of several CPU processes and print how it was launched.

accelerate shards weights on accelerators only; if `accelerate launch` asks for sharding, the CPU is passed off as one.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from vocabkit_cli.app import main

_plain = AcceleratorState.__init__


def _sharding(self: AcceleratorState, *words: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _plain(self, *words, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None:
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    AcceleratorState.__init__ = _sharding
try:
    main()
finally:
    found = AcceleratorState()
    print(f"process {found.process_index} of {found.num_processes}: {found.distributed_type.value}", flush=True)
