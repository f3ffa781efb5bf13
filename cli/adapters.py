"""Commands on adapters: transfer to another LLM, check the transfer, export it, and import published weights."""

from __future__ import annotations

import dataclasses
import enum
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .options import (
    DATA,
    IMAGE_FOLDER,
    TEMPLATE,
    AsJson,
    Aspect,
    Device,
    ImageColumn,
    OtherWeights,
    Overwrite,
    Split,
    TextColumn,
    aspect_ratio,
    check_device,
    check_llms,
    check_new,
    check_page,
    check_source,
    page_origin,
    told_once,
    write_page,
)
from .show import Show, note, say, show, show_json, show_progress, working

if TYPE_CHECKING:
    from vocabkit.adapter.config import Spelled
    from vocabkit.evaluate.calibrate import Calibration
    from vocabkit.transfer.transfer import Target


class MissingRows(enum.StrEnum):
    """How to handle tokens missing from the target; see `vocabkit.transfer.transfer.Missing`."""

    error = "error"
    drop = "drop"
    compose = "compose"


class Form(enum.StrEnum):
    """See `vocabkit.transfer.export.export.Form`."""

    hf = "hf"
    projector = "projector"
    llava = "llava"
    llava_next = "llava-next"
    mmproj = "mmproj"
    mm_projector = "mm_projector"


class VisualTokens(enum.StrEnum):
    """How visual tokens are made of coefficients."""

    mix = "mix"
    spelled = "spelled"


class Order(enum.StrEnum):
    """See `vocabkit.adapter.config.Spelled`."""

    share = "share"
    place = "place"


SPELLED = "With --visual-tokens spelled"
BY_CAPTIONS, DISTILLATION = "With --scale captions", "Distillation, with --features"
"""Panels of options."""
ADAPTER = "folder, .pt file or hub id"
Adapter = Annotated[
    str, typer.Argument(help=f"An adapter with a head, trained or already transferred: {ADAPTER}.", show_default=False)
]
To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="TARGET",
        help="Target LLM: a model folder, GGUF, catalog model or hub id (owner/name or owner/name@revision).",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Embedding table of the target, if not in TARGET: a folder, hub id or weights file. A weights file other "
        "than GGUF needs a config.json beside it.",
        show_default=False,
    ),
]
EmbeddingTensor = Annotated[
    str | None,
    typer.Option(
        help="Name of the embedding table among the target's tensors, if it can't be found automatically.",
        show_default=False,
    ),
]
Features = Annotated[
    Path | None,
    typer.Option(
        help="Real patch features: a folder of `vocabkit features`, or a safetensors file with `features` (N, Dv).",
        show_default=False,
    ),
]


def transfer(
    adapter: Adapter,
    to: To,
    out: Annotated[
        Path | None, typer.Option(help="Folder or *.pt to write. [default: report only]", show_default=False)
    ] = None,
    overwrite: Overwrite = False,
    weights: Weights = None,
    embedding_tensor: EmbeddingTensor = None,
    missing: Annotated[
        MissingRows, typer.Option(help="How to handle tokens missing from the target.")
    ] = MissingRows.error,
    scale: Annotated[
        str,
        typer.Option(help="Factor on the visual tokens: none, a number, rms (needs --features), or captions."),
    ] = "none",
    visual_tokens: Annotated[
        VisualTokens | None,
        typer.Option(
            help="`mix` weighs embeddings for each patch; `spelled` gives the image's words in order, as plain tokens. "
            "[default: as before; mix at first]",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="Least mean coefficient of a word. [default: as before; 0.03 at first]",
            rich_help_panel=SPELLED,
            show_default=False,
        ),
    ] = None,
    order: Annotated[
        Order | None,
        typer.Option(
            help="The largest `share` first, or by `place` in the image. [default: as before; share at first]",
            rich_help_panel=SPELLED,
            show_default=False,
        ),
    ] = None,
    positions: Annotated[
        int | None,
        typer.Option(
            help="Visual tokens per image. [default: as before; 24 at first]",
            rich_help_panel=SPELLED,
            show_default=False,
        ),
    ] = None,
    features: Features = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=f"Samples to choose the scale on, not those you report results on: {DATA}.",
            rich_help_panel=BY_CAPTIONS,
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help=IMAGE_FOLDER, rich_help_panel=BY_CAPTIONS, show_default=False),
    ] = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    text_column: TextColumn = "text",
    template: Annotated[str, typer.Option(help=TEMPLATE, rich_help_panel=BY_CAPTIONS)] = "plain",
    limit: Annotated[
        int, typer.Option(help="Samples to use, from the start of the data.", min=1, rich_help_panel=BY_CAPTIONS)
    ] = 100,
    batch: Annotated[int, typer.Option(help="Samples per batch.", min=1, rich_help_panel=BY_CAPTIONS)] = 32,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Move a trained adapter to another LLM.

    Nothing is retrained: the adapter's coefficients are applied to the embedding rows of the target. A summary is
    shown; with --out the result is written.

    With --scale captions, the scale is the factor with the lowest caption loss on --data, or 1 if no other factor is
    significantly better.
    """
    from vocabkit.files.memory import keep_freed_memory, return_freed_memory

    by_captions = scale == "captions"
    (keep_freed_memory if by_captions else return_freed_memory)()  # first: some of these import Arrow
    from vocabkit.errors import VocabkitError
    from vocabkit.llm.prompts import parse_template
    from vocabkit.report.adapters import calibration_report, preflight_report

    if by_captions and (data is None or features is None or weights is not None):
        raise VocabkitError(
            "--scale captions runs the LLM that --to names: add --data and --features, and leave out --weights"
        )
    chosen = {"threshold": threshold, "order": order and order.value, "positions": positions}
    check_source(adapter)
    made = _made(adapter, visual_tokens, {name: value for name, value in chosen.items() if value is not None})
    _check_target(to)
    check_device(device)
    form = parse_template(template)
    factor = 1.0 if by_captions else _factor(scale)
    if out is not None and out.exists() and Path(adapter).exists() and out.samefile(adapter):
        raise VocabkitError(f"{out}: is the adapter to transfer; name another output")
    if factor == "rms" and features is None:
        raise VocabkitError("--scale rms measures visual tokens: add --features")
    if (
        out is None
        and features is None
        and not _reads_rows(
            adapter, to, json=json, missing=missing.value, scale=factor, visual_tokens=made, weights=weights
        )
    ):
        return
    if out is not None:
        _check_adapter_place(out, "transferred", overwrite)
    with show_progress(_downloads_kept) as progress:
        from vocabkit.adapter.checkpoint import check_destination
        from vocabkit.adapter.model import LangBridgeAdapter
        from vocabkit.transfer.check import why_unprovable
        from vocabkit.transfer.transfer import transfer as move

        if out is not None:
            check_destination(out, "transferred")
        loaded = LangBridgeAdapter.from_pretrained(adapter)
        target = _open_target(to, weights, embedding_tensor, progress)
        result, report = move(
            loaded, target, missing=missing.value, scale=factor, features=None if by_captions else features,
            visual_tokens=made,
        )  # fmt: skip
        found: Calibration | None = None
        if by_captions:
            from vocabkit.data.sources import Columns
            from vocabkit.evaluate.calibrate import calibrate_file
            from vocabkit.evaluate.validate import FileOptions
            from vocabkit.llm.devices import fitting_memory

            assert data is not None
            assert features is not None
            options = FileOptions(
                features=features, images=images, columns=Columns(split, image_column, text_column),
                template=form, limit=limit, batch=batch, device=device,
            )  # fmt: skip
            with fitting_memory(batch):
                found = calibrate_file(result, to, data, options, progress=progress)
            report = dataclasses.replace(report, scale=found.scale)
    if not json:
        show(preflight_report(report))
        if found is not None:
            show(calibration_report(found))
    if out is not None:
        result.save(out)
    if json:
        show_json({"preflight": report, **({} if found is None else {"calibration": found}), "written": out})
        return
    if out is None:
        note("nothing is written; to write the result, add --out")
        return
    say(f"written: {out}")
    if why := why_unprovable(result, target.vocabulary):
        note(f"`vocabkit check` can't prove it: {why}")
        return
    words = ["vocabkit", "check", str(out), adapter, "--to", to]
    words += [] if weights is None else ["--weights", weights]
    words += [] if embedding_tensor is None else ["--embedding-tensor", embedding_tensor]
    note(f"prove it: {shlex.join(words)}", unbroken=True)


def _reads_rows(adapter: str, to: str, *, json: bool, **chosen: Any) -> bool:
    """Report what the transfer will give, from tokenizers alone; unless the weights are here, which say more."""
    from importlib.util import find_spec

    from vocabkit.errors import VocabkitError
    from vocabkit.report.adapters import preflight_report
    from vocabkit.transfer.plan import preview

    try:
        with working(f"reading {adapter} and {to}"):
            found = preview(adapter, to, **chosen)
    except VocabkitError as error:
        raise VocabkitError(f"{error}{_apart(to, chosen['weights'])}") from error
    here = Path(found.embeddings).expanduser().exists()
    if here and not found.undecided and find_spec("torch"):
        return True
    if json:
        show_json({"preflight": found, "written": None})
        return False
    show(preflight_report(found))
    if found.undecided:
        ways = "--missing drop" if found.of_several is not None else "--missing drop or compose"
        note(f"to write the result, add --out and say what to do about what is missing: {ways}")
    if here:
        note("nothing is written; to write the result, add --out")
        return False
    page = f"https://huggingface.co/{found.embeddings.partition('@')[0]}"
    note(
        "nothing is written. With --out, the embedding table alone is read from the hub; if the repository is gated, "
        f"accept its terms at {page} and run `hf auth login`. Or read a local copy: --weights FOLDER"
    )
    return False


def check_adapter(
    result: str,
    adapter: str,
    to: str,
    weights: str | None,
    embedding_tensor: str | None,
    features: Path | None,
    html: Path | None,
    overwrite: bool,
    validation: Path | None,
    json: bool,
) -> None:
    """Check the transferred adapter `result` against `adapter`, the one before the transfer."""
    from vocabkit.files.memory import return_freed_memory

    return_freed_memory()
    from vocabkit.errors import VocabkitError
    from vocabkit.report.adapters import proof_report

    if validation is not None and html is None:
        raise VocabkitError("--validation is shown on a page: add --html FILE")
    check_page(
        html, [path for path in (Path(result), Path(adapter), features, validation) if path is not None], overwrite
    )
    check_source(result)
    check_source(adapter)
    _check_target(to)
    with show_progress(_downloads_kept) as progress:
        measured = None
        if validation is not None:  # before the work
            from vocabkit.report.html.transfer import read_validation

            measured = read_validation(validation)
        from vocabkit.adapter.model import LangBridgeAdapter
        from vocabkit.transfer.check import check_transfer

        moved = LangBridgeAdapter.from_pretrained(result, kind="transferred")
        original = LangBridgeAdapter.from_pretrained(adapter)
        target = _open_target(to, weights, embedding_tensor, progress)
        progress("checking", 0, None)
        proof = check_transfer(moved, original, target, features=features)
    if html is not None:
        from vocabkit.report.html.transfer import preflight_of, transfer_page

        origin = page_origin(
            {
                "transferred adapter": moved.fingerprint(),
                "adapter": original.fingerprint(),
                target.vocabulary.name: target.vocabulary.fingerprint,
            }
        )
        write_page(html, transfer_page(proof, preflight_of(proof, moved, original, target), origin, measured))
    if json:
        show_json({**vars(proof), "passed": proof.passed})
    else:
        show(proof_report(proof))
    raise typer.Exit(0 if proof.passed else 1)


def import_adapter(
    weights: Path,
    shared: Path,
    llm: str,
    out: Path,
    overwrite: bool,
    vision: str | None,
    layer: int | None,
    aspect: Aspect | None,
    json: bool,
) -> None:
    """Import published weights."""
    from vocabkit.shared.shared_vocabulary import open_shared

    _check_adapter_place(out, "langbridge", overwrite)
    rows = open_shared(shared)
    with show_progress():
        from vocabkit.adapter.checkpoint import check_destination
        from vocabkit.transfer.published import import_published

        check_destination(out, "langbridge")
        adapter = import_published(
            weights, rows, llm, vision=vision, layer=layer, image_aspect_ratio=aspect_ratio(aspect)
        )
        adapter.save(out)
    config = adapter.config
    if json:
        show_json({"file": out, "config": config})
        return
    say(f"{out}: {config.head} head, {config.rows:,} rows, hidden {config.hidden_width:,}, trained with {llm}")
    if config.vision_model is None or config.vision_layer is None:
        note("its vision model and layer are not recorded, so wrong features would not be noticed: --vision, --layer")
    else:
        ratio = "" if config.vision_aspect_ratio is None else f", image_aspect_ratio {config.vision_aspect_ratio}"
        say(f"features: {config.vision_model}, layer {config.vision_layer}{ratio}")


def export(
    adapter: Annotated[
        str, typer.Argument(help=f"A transferred adapter or an MLP projector: {ADAPTER}.", show_default=False)
    ],
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="A checkpoint for transformers with any head as it is; a plain two-layer projector; a stock Llava "
            "checkpoint; a llama.cpp mmproj GGUF; LLaVA's mm_projector.bin.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder or file to write.")],
    overwrite: Overwrite = False,
    llm: Annotated[
        str | None,
        typer.Option(
            help="For hf and llava, the LLM: a model folder, LoRA folder, GGUF, catalog model or hub id.",
            show_default=False,
        ),
    ] = None,
    other_weights: OtherWeights = False,
    vision: Annotated[
        str | None,
        typer.Option(
            help="The vision model, for hf, llava and mmproj: folder or hub id. [default: hf: as in training]",
            show_default=False,
        ),
    ] = None,
    keep_cls: Annotated[
        bool,
        typer.Option(
            "--keep-cls", help="For hf and llava: class tokens become visual tokens. [default: as the adapter records]"
        ),
    ] = False,
    image_aspect_ratio: Annotated[
        Aspect | None,
        typer.Option(
            help="For hf and llava: how pictures become square, if the adapter does not record it. For mmproj: `pad`, "
            "to accept that llama.cpp pads them.",
            show_default=False,
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Distil on these patch features, from `vocabkit features`. [default: fold, which is exact]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="LLaVA JSON or JSONL with the pictures to fit on; may be repeated. [default: all in --features]",
            rich_help_panel=DISTILLATION,
            show_default=False,
        ),
    ] = None,
    hidden_width: Annotated[
        int | None,
        typer.Option(
            help="Hidden units of the projector; mmproj and projector may have any number. [default: the LLM's width]",
            min=1,
            rich_help_panel=DISTILLATION,
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Optimizer steps, of 1,024 patches each.", min=1, rich_help_panel=DISTILLATION)
    ] = 2000,
    seed: Annotated[
        int, typer.Option(help="Random seed of the distillation.", min=0, rich_help_panel=DISTILLATION)
    ] = 0,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Write an adapter in the format of another program.

    The adapter is for one LLM: transferred, or an MLP projector. `hf` holds any head as it is, for transformers with
    vocabkit installed. The other formats hold a stock two-layer projector. A linear head folds into it exactly. A
    softmax head does not fold, and a linear head with more hidden units than the LLM is wide does not fit into a stock
    Llava checkpoint. For those, give --features: a projector is fitted that approximates the adapter, and its error on
    held-out pictures is reported.
    """
    from vocabkit.adapter.description import EXPORTS
    from vocabkit.files.memory import keep_freed_memory

    check_source(adapter)
    check_device(device)
    _check_adapter_place(out, EXPORTS[form.value], overwrite)
    check_llms([llm] if llm else [])
    if features is not None:
        keep_freed_memory()
    with show_progress() as progress:
        from vocabkit.transfer.export.export import ExportOptions, check_place
        from vocabkit.transfer.export.export import export as write

        check_place(out, form.value)
        options = ExportOptions(
            llm=llm, other_weights=other_weights, vision=vision, keep_cls=keep_cls,
            image_aspect_ratio=aspect_ratio(image_aspect_ratio), features=features,
            data=tuple(data or ()), hidden_width=hidden_width, steps=steps, seed=seed, device=device,
        )  # fmt: skip
        done = write(adapter, form.value, out, options, progress=progress)
    fit = done.distillation
    if fit is not None and fit.warning:
        note(f"warning: {fit.warning}")
    if json:
        warning = None if fit is None else fit.warning
        show_json({"file": out, "bytes": done.bytes, "config": done.config, "report": fit, "warning": warning})
        return
    if fit is not None:
        say(
            f"fitted on {fit.pictures:,} pictures; relative error {fit.relative_error:.3f} on {fit.held_out:,} others "
            "(0 is the adapter itself, 1 the mean token)"
        )
    say(f"written: {out}, {done.bytes / 1e6:,.1f} MB, for {done.config.output_llm}")


def _made(adapter: str, visual_tokens: VisualTokens | None, given: dict[str, Any]) -> Spelled | Literal["mix"] | None:
    """Combine --visual-tokens and the settings `given` with those that the adapter records."""
    from vocabkit.adapter.config import Spelled
    from vocabkit.adapter.description import describe
    from vocabkit.errors import VocabkitError

    if visual_tokens is None and not given:
        return None
    if visual_tokens is VisualTokens.mix and not given:
        return "mix"
    recorded = None if visual_tokens is VisualTokens.mix else describe(adapter).config.spelled
    if visual_tokens is not VisualTokens.spelled and recorded is None:
        raise VocabkitError(f"--{next(iter(given))} is for words in order: add --visual-tokens spelled")
    return dataclasses.replace(recorded or Spelled(), **given)


def _factor(scale: str) -> float | Literal["rms"]:
    """Parse --scale into the `scale` of `transfer`."""
    from vocabkit.errors import VocabkitError, quote
    from vocabkit.transfer.plan import check_factor

    if scale == "rms":
        return "rms"
    try:
        factor = 1.0 if scale == "none" else float(scale)
    except ValueError as error:
        raise VocabkitError(f"--scale {quote(scale)}: choose none, rms, captions, or a number") from error
    check_factor(factor)
    return factor


def _check_adapter_place(out: Path, kind: str, overwrite: bool) -> None:
    """Check, before torch is imported, that an adapter or export of this kind may be written to `out`."""
    from vocabkit.adapter.description import check_name

    check_name(out, kind)
    check_new(out, overwrite)


def _downloads_kept() -> str:
    return "nothing was written; what was downloaded is kept, and the same command resumes there"


def _check_target(to: str) -> None:
    """Refuse a target that is nowhere, before torch is imported."""
    from vocabkit.hub import is_hub_id
    from vocabkit.tokenizer.catalog import catalog, resolve, without_name

    source = without_name(to)
    if not (Path(source).expanduser().exists() or is_hub_id(source) or source.lower() in catalog()):
        resolve(to)


def _open_target(to: str, weights: str | None, embedding_tensor: str | None, progress: Show) -> Target:
    """Open the LLM that --to and --weights name, and note on stderr which files were used."""
    from vocabkit.errors import VocabkitError
    from vocabkit.transfer.transfer import open_target

    try:
        progress(f"reading {to}", 0, None)
        target = open_target(to, weights=weights, embedding_tensor=embedding_tensor, progress=progress)
    except VocabkitError as error:
        raise VocabkitError(f"{error}{_apart(to, weights)}") from error
    rows, source = f"{target.embeddings.num_rows:,} embedding rows", str(target.embeddings.source)
    of = "" if to.endswith(source) else f" of {source}"
    note(f"{to}: {len(target.vocabulary):,} ids, {told_once(target.how, to)}; {rows}{of}")
    return target


def _apart(to: str, weights: str | None) -> str:
    """Advise on a folder that holds weights but no tokenizer: which options name the two separately."""
    from vocabkit.tokenizer.catalog import catalog, without_name
    from vocabkit.tokenizer.read import holds_tokenizer

    folder = Path(without_name(to))
    if not folder.is_dir() or holds_tokenizer(folder):
        return ""
    name = to.removesuffix(without_name(to)).removesuffix("=")
    shipped = name.lower() in catalog() and not Path(name).exists()
    tokenizer = name if shipped else f"{name}=TOKENIZER" if name else "TOKENIZER"
    return f"; take one from elsewhere: {shlex.join(['--to', tokenizer, '--weights', weights or str(folder)])}"
