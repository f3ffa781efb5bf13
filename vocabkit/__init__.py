"""vocabkit: reuse a vision-language adapter with another LLM, through the vocabulary that both share.

These names are the public interface, and each loads its module on first use, so that aligning tokenizers needs no
torch. docs/python.md shows all of them at work.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

TYPE_CHECKING = False  # as type checkers understand it; importing `typing` would take longer than all of this
if TYPE_CHECKING:
    from typing import Any

    from vocabkit.adapter.mixing.mix import mix
    from vocabkit.adapter.model import load_adapter
    from vocabkit.errors import VocabkitError
    from vocabkit.infer.infer import infer
    from vocabkit.shared.align import align
    from vocabkit.shared.explain import explain
    from vocabkit.shared.overlap import overlap
    from vocabkit.shared.shared_vocabulary import open_shared
    from vocabkit.tokenizer.load import load_tokenizer
    from vocabkit.transfer.check import check_transfer
    from vocabkit.transfer.transfer import transfer

    __version__: str

__all__ = [
    "VocabkitError",
    "__version__",
    "align",
    "check_transfer",
    "explain",
    "infer",
    "load_adapter",
    "load_tokenizer",
    "mix",
    "open_shared",
    "overlap",
    "transfer",
]

_HOME = {
    "VocabkitError": ("vocabkit.errors", "VocabkitError"),
    "align": ("vocabkit.shared.align", "align"),
    "check_transfer": ("vocabkit.transfer.check", "check_transfer"),
    "explain": ("vocabkit.shared.explain", "explain"),
    "infer": ("vocabkit.infer.infer", "infer"),
    "load_adapter": ("vocabkit.adapter.model", "load_adapter"),
    "load_tokenizer": ("vocabkit.tokenizer.load", "load_tokenizer"),
    "mix": ("vocabkit.adapter.mixing.mix", "mix"),
    "open_shared": ("vocabkit.shared.shared_vocabulary", "open_shared"),
    "overlap": ("vocabkit.shared.overlap", "overlap"),
    "transfer": ("vocabkit.transfer.transfer", "transfer"),
}
"""Public name -> module and name in it."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("vocabkit")
    elif name in _HOME:
        module, attribute = _HOME[name]
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'vocabkit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


class _Face(ModuleType):
    """Keeps `vocabkit.transfer` and `vocabkit.infer` functions although packages of these names exist.

    Importing a submodule sets it as an attribute of its parent, which would hide the function or not, depending on what
    was imported first. `from vocabkit.transfer.fold import fold` looks packages up elsewhere and works as ever.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
