"""The commands of vocabkit, and how errors end.

Each command parses, calls one library function and shows its value: data on stdout, everything else on stderr.
"""

from __future__ import annotations

import functools
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from . import adapters, doctor, training
from . import adapters as distillation
from . import pictures as inference
from . import pictures as interpretation
from . import training as data
from . import training as evaluation
from . import training as features
from . import vocabularies as index_maps
from . import vocabularies as shared_vocabularies
from . import vocabularies as tokenizers

ADAPTER_EXTRA = {"PIL", "accelerate", "gguf", "safetensors", "torch", "transformers"}
"""What only the commands about adapters need, and a light installation lacks."""


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
    """What may stand before a command."""


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Reuse a vision-language adapter trained with one LLM with another one, through their shared vocabulary.",
)
app.callback()(_options)
app.command("build-shared")(shared_vocabularies.build_shared)
app.command("check")(shared_vocabularies.check)
app.command("overlap")(tokenizers.overlap)
app.command("explain")(tokenizers.explain)
app.command("import-map")(index_maps.import_map)
app.command("audit")(index_maps.audit)
app.command("scenes")(data.scenes)
app.command("features")(features.features)
app.command("train")(training.train)
app.command("import-adapter")(adapters.import_adapter)
app.command("transfer")(adapters.transfer)
app.command("check-transfer")(adapters.check_adapter)
app.command("export")(distillation.export)
app.command("infer")(inference.infer)
app.command("validate")(evaluation.validate)
app.command("compare")(evaluation.compare)
app.command("interpret")(interpretation.interpret)
app.command("snapshot")(tokenizers.snapshot)
app.command("catalog")(tokenizers.catalog)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line.

    Exit code 1 if a check failed or the reader of a pipe went away, 2 with one line on stderr on bad usage or bad
    input, 130 on Ctrl-C.
    """
    from vocabkit.errors import VocabkitError, one_line

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # else it tells of each of its attempts to reach the hub
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that can't show some token
    try:
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
    except OSError as error:  # a full disk under stdout, which must not be flushed once more
        problem = one_line(f"{error.filename or 'output'}: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    print(f"error: {problem}", file=sys.stderr)
    sys.exit(2)


def _usage(error: TyperException) -> str:
    """What typer says of bad usage in several lines, and where the help is."""
    context = getattr(error, "ctx", None)
    command = "vocabkit" if context is None else context.command_path
    return f"{' '.join(error.format_message().split()).rstrip('.')}; see `{command} --help`"


@functools.cache
def _command() -> Any:
    """The command line as a click group, built once: building takes longer than most commands."""
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
