"""Arguments and options that several commands share, and what checks and resolves them."""

from __future__ import annotations

import enum
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .show import note, working

if TYPE_CHECKING:
    from vocabkit.data.partition import Partition
    from vocabkit.report.html.page import Origin
    from vocabkit.tokenizer.catalog import Resolved

_SOURCES = "a folder, a tokenizer file, a GGUF, a catalog name (see `vocabkit catalog`)"
SOURCE = f"{_SOURCES} or a hub id"
TOKENIZER = f"{_SOURCES}, a hub id, or NAME=any of these"
Tokenizers = Annotated[list[str], typer.Argument(help=f"Two or more tokenizers; each {TOKENIZER}.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Everything = Annotated[bool, typer.Option("--all", help="Show everything, not only what matters most.")]
CorpusColumn = Annotated[
    str | None,
    typer.Option("--text-column", help="Field or column of the corpus that holds the text.", show_default=False),
]
CORPUS = "a caption corpus: text, JSONL, LLaVA JSON, Parquet (.gz and .zst too), or a folder; may be repeated"

Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.")]
PartOf = Annotated[
    str | None,
    typer.Option(
        "--partition",
        metavar="I/N",
        help="Compute only part I of N, such as 1/8, into the folder that all parts share. [default: all; each process "
        "of accelerate launch takes its part]",
        show_default=False,
    ),
]
OtherWeights = Annotated[
    bool,
    typer.Option("--other-weights", help="Accept an LLM that has been tuned since the adapter was made for it."),
]
Vision = Annotated[str | None, typer.Option(help="The vision model. [default: as in training]", show_default=False)]
Pool = Annotated[
    str | None,
    typer.Option(
        metavar="ROWSxCOLUMNS",
        help="Pool the grid of patches to this size. [default: as in training]",
        show_default=False,
    ),
]
IMAGE_FOLDER = "Folder of the images of LLaVA files. [default: that of each file]"
Images = Annotated[Path | None, typer.Option(help=IMAGE_FOLDER, show_default=False)]
TEMPLATE = "How question and answer become text: plain, completion or chat (see docs/training.md)."
Template = Annotated[str, typer.Option(help=TEMPLATE)]


def part_of(partition: str | None) -> Partition:
    """Return what --partition says, by default the part of this process."""
    from vocabkit.data.partition import Partition

    return Partition.of_this_process() if partition is None else Partition.parse(partition)


def check_device(device: str) -> None:
    """Raise VocabkitError, before torch is imported, if `device` is nothing that models run on."""
    from vocabkit.errors import VocabkitError, quote

    kind, colon, number = device.partition(":")
    kinds = ("auto", "cpu", "cuda", "xpu", "mps", "npu", "hpu", "mtia")
    if kind not in kinds or (colon and (kind == "auto" or not number.isdecimal())):
        raise VocabkitError(f"--device {quote(device)}: can't be used here (no such device); use auto or cpu")


def check_source(adapter: str, wanted: str = "an adapter") -> None:
    """Raise VocabkitError, before torch is imported, if `adapter` is neither here nor a hub id."""
    from vocabkit.adapter.description import nowhere
    from vocabkit.errors import VocabkitError

    if problem := nowhere(adapter):
        from vocabkit.tokenizer.catalog import catalog

        raise VocabkitError(f"{adapter}: names an LLM; give {wanted}" if adapter.lower() in catalog() else problem)


def check_llms(llms: Iterable[str]) -> None:
    """Raise VocabkitError, before torch is imported, if one of `llms` is not here, no catalog name and no hub id."""
    from vocabkit.adapter.description import nowhere
    from vocabkit.errors import VocabkitError
    from vocabkit.tokenizer.catalog import catalog, without_name

    for llm in llms:
        source = without_name(llm)
        if source.lower() not in catalog() and (problem := nowhere(source)):
            raise VocabkitError(f"--llm {llm}: {problem.removeprefix(f'{source}: ')}")


def check_data(sources: Iterable[str], *, images: bool = False) -> None:
    """Raise VocabkitError, before torch is imported, if one of `sources` is neither here nor a hub id, or a local tar
    can't be read.

    Args:
        images: whether they may be images; a missing one is a broken picture.
    """
    from vocabkit.data.hf_datasets import is_parquet
    from vocabkit.data.pictures import IMAGE
    from vocabkit.data.tars import is_tar, tar_pictures
    from vocabkit.data.urls import each_file
    from vocabkit.errors import VocabkitError, did_you_mean
    from vocabkit.hub import is_hub_id

    # URLs are looked up when they are read
    for source in (name for each in sources if "://" not in each for name in each_file(each)):
        path = Path(source)
        if images and IMAGE.fullmatch(path.name):
            continue
        if is_tar(source) and not path.is_dir():
            next(iter(tar_pictures(source)), None)
        if not path.exists() and is_parquet(source):
            raise VocabkitError(f"{source}: no such file")
        if not path.exists() and path.suffix.lower().startswith(".js"):  # in a folder, it looks like owner/name
            near = [file.name for file in path.parent.glob("*.js*")]
            raise VocabkitError(f"{source}: no such file; {did_you_mean(path.name, near, 'check the name')}")
        if not path.exists() and not is_hub_id(source):
            raise VocabkitError(f"{source}: no such file or folder, and no hub id of a dataset (owner/name)")


class Aspect(enum.StrEnum):
    """How pictures that are not square become square."""

    square = "square"
    pad = "pad"


def aspect_ratio(aspect: Aspect | None) -> Literal["square", "pad"] | None:
    """Return the value of --image-aspect-ratio."""
    return None if aspect is None else aspect.value


AspectRatio = Annotated[
    Aspect | None,
    typer.Option(
        "--image-aspect-ratio",
        help="Pictures that are not square: `square` leaves them to the image processor, `pad` pads them to a square. "
        "[default: as in training]",
        show_default=False,
    ),
]
Split = Annotated[str, typer.Option(help="Dataset split.")]
ImageColumn = Annotated[str, typer.Option(help="Dataset column with the images.")]
TextColumn = Annotated[str, typer.Option(help="Dataset column with captions, or with conversations in LLaVA's form.")]
ShardsOut = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="Output folder, or its URL in an object store (s3://...); resumes an interrupted run.",
        show_default=False,
    ),
]


def check_shards_out(out: str) -> None:
    """Raise VocabkitError, before torch is imported, if shards can't be written to --out."""
    from vocabkit.data.output import check_output_folder
    from vocabkit.errors import VocabkitError

    check_output_folder(out)
    if out.lower().startswith("memory://"):
        raise VocabkitError(f"--out {out}: is lost when this command ends; name a folder, or one of an object store")


def kept_shards(out: str) -> str:
    """What an interruption of a command that writes shards to `out` leaves."""
    if "://" not in out and not any(each.suffix in (".arrow", ".safetensors") for each in Path(out).glob("*")):
        return "nothing was written"
    return f"{out} keeps what is done; the same command resumes"


DATA = "LLaVA JSON or JSONL, tars, Parquet, or Hugging Face datasets (folder or hub id)"


def resolve_one(argument: str) -> Resolved:
    """Resolve the tokenizer that `argument` names, and note on stderr what was used."""
    from vocabkit.tokenizer.catalog import catalog, resolve

    if argument.lower() in catalog():  # a moment's work
        found = resolve(argument)
    else:
        with working(f"reading {argument}"):
            found = resolve(argument)
    note(f"{argument}: {len(found.vocabulary):,} ids, {told_once(found.how, argument)}")
    return found


def told_once(how: str, argument: str) -> str:
    """`how` a tokenizer was found, without the path that `argument` tells already."""
    path = how.removeprefix("local file ")
    return "local file" if path != how and argument.endswith(path) else how


def resolve_all(arguments: Sequence[str]) -> list[Resolved]:
    """Resolve two or more tokenizers, and give them distinct names."""
    import dataclasses

    from vocabkit.errors import VocabkitError, quote
    from vocabkit.tokenizer.catalog import distinct_names

    if len(arguments) < 2:
        raise VocabkitError(f"only {quote(arguments[0])} is given; name two or more tokenizers, with spaces between")
    found = [resolve_one(argument) for argument in arguments]
    names = distinct_names([each.vocabulary.name for each in found], [each.above for each in found])
    return [
        dataclasses.replace(each, vocabulary=dataclasses.replace(each.vocabulary, name=name))
        for each, name in zip(found, names, strict=True)
    ]


def arrow_file(name: str) -> Path:
    """Return an Arrow file in the current folder named after `name`, which may hold slashes."""
    return Path(name.replace("/", "-")[:100] + ".arrow")


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the result of an earlier run.")]


def check_output(path: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Raise VocabkitError, before the work: `path` can't be written, is an input, or holds what must not be replaced,
    a file of the user's, or an earlier result without --overwrite.
    """
    from vocabkit.errors import VocabkitError
    from vocabkit.files.atomic import check_replaceable, check_writable

    check_writable(path)
    if path.exists() and any(path.samefile(file) for file in inputs if file.exists()):
        raise VocabkitError(f"{path}: is an input of this command; name another output")
    check_replaceable(path)
    check_new(path, overwrite)


def check_new(path: Path, overwrite: bool) -> None:
    """Raise VocabkitError if `path` holds an earlier result, a file or an adapter, that is not to be replaced."""
    from vocabkit.errors import VocabkitError

    taken = (path.is_file() and path.stat().st_size > 0) or (path / "config.json").exists()
    if taken and not overwrite:
        raise VocabkitError(f"{path}: exists; add --overwrite to replace it, or name another output")


def named_values(arguments: Sequence[str] | None, option: str) -> dict[str, str]:
    """Parse NAME=VALUE options into a mapping. Raises VocabkitError: another form, or a name given twice."""
    from vocabkit.errors import VocabkitError, quote

    pairs: dict[str, str] = {}
    for argument in arguments or ():
        name, separator, value = argument.partition("=")
        if not (name and separator and value) or name in pairs:
            own = f", such as {Path(argument).stem}={argument}" if argument and not separator else ""
            problem = f"names {quote(name)} a second time" if name in pairs else f"is not of the form NAME=VALUE{own}"
            raise VocabkitError(f"{option} {quote(argument)} {problem}")
        pairs[name] = value
    return pairs


def grid_size(pool: str | None) -> tuple[int, int] | None:
    """Parse --pool into rows and columns. Raises VocabkitError: another form."""
    from vocabkit.errors import VocabkitError, quote

    if pool is None:
        return None
    rows, _, columns = pool.partition("x")
    if not (rows.isdecimal() and columns.isdecimal()):
        raise VocabkitError(f"--pool {quote(pool)} is not of the form ROWSxCOLUMNS, such as 4x4")
    return int(rows), int(columns)


Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Also write it as one self-contained HTML page.", show_default=False),
]


def check_page(path: Path | None, inputs: Iterable[Path], overwrite: bool) -> None:
    """Check --html before the work: as `check_output`, and that the packages for pages are installed."""
    if path is not None:
        import vocabkit.report.html.page  # noqa: F401

        check_output(path, inputs, overwrite)


def page_origin(sources: Mapping[str, str]) -> Origin:
    """Return what the footer of a page shows: the command, and fingerprints of its inputs by name."""
    from vocabkit.report.html.page import Origin

    words = sys.argv[1:]
    if "--html" in words:  # a page is the same wherever it is written
        at = words.index("--html")
        del words[at : at + 2]
    words = [word for word in words if word != "--overwrite"]
    return Origin(shlex.join(["vocabkit", *words]), sources)


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all, and note its path on stderr."""
    from vocabkit.files.atomic import write_text

    write_text(path, page)
    note(f"written: {path}")
