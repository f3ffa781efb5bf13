"""The commands of vocabkit, and how errors end.

Each command parses, calls one library function and shows its value: data on stdout, everything else on stderr.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from . import adapters, lookups, pictures, training, vocabularies
from .options import AsJson
from .show import show, show_json, showing_warnings

ADAPTER_EXTRA = {"PIL", "accelerate", "gguf", "safetensors", "torch", "transformers"}
"""Packages that only the commands about adapters need, and a light installation lacks."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vocabkit {version('vocabkit')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


def doctor(json: AsJson = False) -> None:
    """Show installed versions, devices, and the code paths used.

    For typical sizes, it says how visual tokens are computed on this machine, and why.
    """
    from vocabkit.llm.environment import environment

    found = environment()
    if json:
        show_json(found)
        return
    from vocabkit.report.environment import environment_report

    show(environment_report(found))


class _Panels(TyperGroup):
    """Lists commands in groups. Typer does this only with Rich, which reads text in brackets as markup."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel, in the order of registration."""
        width = max(map(len, self.commands))
        for panel in dict.fromkeys(panel for panel, _, _ in _COMMANDS):
            names = [name for each, name, _ in _COMMANDS if each == panel]
            with formatter.section(panel):
                limit = formatter.width - 6 - width
                formatter.write_dl([(f"{n:{width}}", self.commands[n].get_short_help_str(limit)) for n in names])


app = typer.Typer(
    cls=_Panels,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Reuse a vision-language adapter with another LLM, through the vocabulary that both share.",
)
app.callback()(_options)
_COMMANDS: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("Vocabularies", "build-shared", vocabularies.build_shared),
    ("Vocabularies", "overlap", vocabularies.overlap),
    ("Vocabularies", "explain", vocabularies.explain),
    ("Vocabularies", "show", lookups.show),
    ("Vocabularies", "diff", lookups.diff),
    ("Vocabularies", "map", lookups.map_ids),
    ("Vocabularies", "audit", vocabularies.audit),
    ("Vocabularies", "check", vocabularies.check),
    ("Vocabularies", "import", vocabularies.import_),
    ("Vocabularies", "catalog", vocabularies.catalog),
    ("Adapters", "transfer", adapters.transfer),
    ("Adapters", "export", adapters.export),
    ("Pictures", "infer", pictures.infer),
    ("Pictures", "interpret", pictures.interpret),
    ("Training", "scenes", training.scenes),
    ("Training", "features", training.features),
    ("Training", "train", training.train),
    ("Training", "validate", training.validate),
    ("Training", "compare", training.compare),
    ("Installation", "doctor", doctor),
)
"""Panel of the help, name, function."""
for _panel, _name, _function in _COMMANDS:
    app.command(_name, rich_help_panel=_panel)(_function)


def main() -> None:
    """Run the command line.

    Exit code 1 if a check failed or the reader of a pipe closed it; 2, with one line on stderr, on bad usage or bad
    input; 130 on Ctrl-C.
    """
    from vocabkit.errors import VocabkitError, one_line

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # otherwise huggingface_hub logs every attempt to reach the hub
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals whose encoding can't show some token
    try:
        with showing_warnings():
            sys.exit(_command()(sys.argv[1:], "vocabkit", standalone_mode=False))
    except TyperException as error:
        if len(sys.argv) < 2:
            print(error.format_message(), file=sys.stderr)  # the help
            sys.exit(2)
        problem = one_line(_usage(error))
    except VocabkitError as error:
        problem = _with_options(str(error), sys.argv[1:2])
    except MemoryError:
        problem = "not enough memory"
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ADAPTER_EXTRA:
            raise
        problem = f"this command needs {error.name}: pip install 'vocabkit[adapter]'"
    except OSError as error:  # stdout is on a full disk: flushing it at exit would fail again
        problem = one_line(f"{error.filename or 'output'}: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def _usage(error: TyperException) -> str:
    """Put Typer's message about bad usage on one line, and point to the help."""
    context = getattr(error, "ctx", None)
    command = "vocabkit" if context is None else context.command_path
    return f"{' '.join(error.format_message().split()).rstrip('.')}; see `{command} --help`"


@functools.cache
def _command() -> Any:
    """Build the command line as a click group, once: that takes longer than most commands."""
    return typer.main.get_command(app)


def _with_options(message: str, words: Sequence[str]) -> str:
    """Replace each `parameter` that the library names in backticks by the running command's option or argument."""
    command = next((_command().commands[word] for word in words if word in _command().commands), None)
    if command is None:
        return message
    names = {}
    for parameter in command.params:
        options = [option for option in parameter.opts if option.startswith("--")]
        names[parameter.name] = options[0] if options else parameter.name.upper()
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)
