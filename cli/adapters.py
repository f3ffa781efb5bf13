"""transfer and check-transfer: moving an adapter to another LLM, and proving that it was moved rightly."""

from __future__ import annotations

import dataclasses
import enum
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import AsJson, Device, Html, check_page, write_page
from .show import byte_progress, note, say, show, show_json, show_progress

if TYPE_CHECKING:
    from torch import Tensor

    from vocabkit.adapter.config import AdapterConfig, MLPConfig
    from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
    from vocabkit.evaluate.validate import Result
    from vocabkit.transfer.transfer import Target


class MissingRows(enum.StrEnum):
    """What becomes of rows whose token the target lacks."""

    error = "error"
    drop = "drop"
    compose = "compose"


class Export(enum.StrEnum):
    """What a linear adapter can be written as, beside its own checkpoint."""

    projector = "projector"
    llava = "llava"
    mmproj = "mmproj"
    mm_projector = "mm_projector"


Adapter = Annotated[str, typer.Argument(help="A checkpoint folder, an adapter.pt, or a hub id.", show_default=False)]
To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="TARGET",
        help="The LLM: a model folder, a GGUF, a catalog model or a hub id (owner/name or owner/name@revision).",
        show_default=False,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Where to read its embedding table, if not there: a folder, a hub id, or a weights file, with the model's "
        "config.json beside it (a GGUF needs none).",
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
RMS_PATCHES, PROOF_PATCHES = 4096, 256
"""Of --features, evenly spaced. A proof holds all their coefficients in float64."""


def transfer(
    adapter: Adapter,
    to: To,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder, *.pt or exported file to write. [default: only report]", show_default=False),
    ] = None,
    weights: Weights = None,
    missing: Annotated[
        MissingRows, typer.Option(help="Tokens that the target lacks: refuse, drop them, or compose them of its own.")
    ] = MissingRows.error,
    scale: Annotated[
        str, typer.Option(help="Factor on the visual tokens: none, rms (needs --features), or a number.")
    ] = "none",
    features: Features = None,
    export: Annotated[
        Export | None,
        typer.Option(
            help="Fold a linear head, and write: a plain two-layer projector; a Hugging Face Llava checkpoint; a "
            "llama.cpp mmproj GGUF; LLaVA's mm_projector.bin.",
            show_default=False,
        ),
    ] = None,
    vision: Annotated[
        str | None,
        typer.Option(help="Vision model, folder or hub id, for --export llava and mmproj.", show_default=False),
    ] = None,
    keep_cls: Annotated[
        bool,
        typer.Option(
            "--keep-cls", help="For --export llava: the adapter takes the class token, too. [default: as it records]"
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Move a trained adapter to another LLM.

    Nothing is retrained: the adapter's coefficients go over the embedding rows of the target. The report comes first;
    with --out the result is written.
    """
    from vocabkit.llm.devices import return_freed_memory

    return_freed_memory()
    from vocabkit.adapter.checkpoint import check_destination
    from vocabkit.errors import VocabkitError
    from vocabkit.report.adapters import preflight_report
    from vocabkit.transfer.fold import check_folds, check_padding, fold, folded_config
    from vocabkit.transfer.transfer import match_rms, parse_scale, with_visual_rms
    from vocabkit.transfer.transfer import transfer as move

    factor = parse_scale(scale)
    if factor is None and features is None:
        raise VocabkitError("--scale rms measures visual tokens: add --features FILE")
    if export and out is None:
        raise VocabkitError("--export writes a result: add --out")
    if export is None and vision is not None:
        raise VocabkitError("--vision is the vision model of an exported checkpoint: add --export, or leave it out")
    if out is not None and out.exists() and Path(adapter).exists() and out.samefile(adapter):
        raise VocabkitError(f"{out}: is the adapter that is moved; name another output")
    check_export(export, out, vision, keep_cls=keep_cls)
    if out is not None and export is None:
        check_destination(out, "transferred")
    loaded = _load(adapter)
    if export is not None:
        check_folds(loaded.config.head)
        check_trained_features(export, loaded.config, keep_cls=keep_cls)
    measured = None if features is None else _features(features, loaded, RMS_PATCHES)
    target = _target(to, weights)
    if export in (Export.llava, Export.mm_projector):
        check_padding(loaded.config.hidden_width, target.embeddings.width)
    result, report = move(loaded, target, missing=missing.value, scale=factor or 1.0)
    if measured is not None:
        report = (match_rms if factor is None else with_visual_rms)(result, report, measured)
    if export is not None:
        size = _export_size(export, folded_config(result.config), target, vision, weights or to)
        report = dataclasses.replace(report, bytes=size)
    if not json:
        show(preflight_report(report))
    if out is not None and export is None:
        result.save(out)
    elif out is not None and export is not None:
        write_export(fold(result), out, export, vision, weights or to, keep_cls=keep_cls)
    if json:
        show_json({"preflight": report, "written": out})
        return
    if out is None:
        note("nothing is written; to write the result, add --out")
        return
    say(f"written: {out}")
    if export is None:
        words = ["vocabkit", "check-transfer", str(out), adapter, "--to", to]
        words += [] if weights is None else ["--weights", weights]
        note(f"prove it: {shlex.join(words)}")


def check_transfer(
    result: Annotated[str, typer.Argument(help="What `transfer --out` wrote: folder or .pt.", show_default=False)],
    adapter: Annotated[str, typer.Argument(help="The adapter before the transfer.", show_default=False)],
    to: To,
    weights: Weights = None,
    features: Features = None,
    html: Html = None,
    validation: Annotated[
        Path | None, typer.Option(help="For --html: what `validate --out` wrote.", show_default=False)
    ] = None,
    json: AsJson = False,
) -> None:
    """Prove a transferred adapter against the equations.

    Visual tokens of random and, with --features, of real features are compared with Eq. 5-6 in float64, from the
    adapter before the transfer and the target's own embedding table. Exit code 1 if they differ.
    """
    import torch

    from vocabkit.adapter.model import LangBridgeAdapter
    from vocabkit.errors import VocabkitError
    from vocabkit.report.adapters import proof_report
    from vocabkit.transfer.check import check_transfer as prove
    from vocabkit.transfer.fold import fold, why_not_foldable

    if validation is not None and html is None:
        raise VocabkitError("--validation is shown on a page: add --html FILE")
    check_page(html, [path for path in (Path(result), Path(adapter), features, validation) if path is not None])
    measured = None if validation is None else _validation(validation)
    moved, original = LangBridgeAdapter.from_pretrained(result, kind="transferred"), _load(adapter)
    real = None if features is None else _features(features, original, PROOF_PATCHES)
    folded = None if why_not_foldable(moved.config.head) else fold(moved, torch.float64)
    target = _target(to, weights)
    proof = prove(moved, original, target, features=real, folded=folded)
    if html is not None:
        from vocabkit.report.html.transfer import preflight_of, transfer_page

        write_page(html, transfer_page(proof, preflight_of(proof, moved, original, target), measured))
    if json:
        show_json({**vars(proof), "passed": proof.passed})
    else:
        show(proof_report(proof))
    raise typer.Exit(0 if proof.passed else 1)


def import_adapter(
    weights: Annotated[
        Path,
        typer.Argument(
            help="The published mm_projector.bin (LangBridge, linear head), or the folder of a whole checkpoint.",
            show_default=False,
        ),
    ],
    shared: Annotated[
        Path, typer.Argument(help="Its shared vocabulary, from `vocabkit import-map`.", show_default=False)
    ],
    llm: Annotated[
        str, typer.Option(help="The tokenizer that it was trained with: a name in the vocabulary.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder or *.pt to write.")] = Path("adapter.pt"),
    vision: Annotated[
        str | None,
        typer.Option(
            help="Vision model that it was trained with, to be recorded. [default: as a checkpoint's config.json says]",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Its hidden states, as transformers counts them: -2 as published.", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """Turn published LangBridge weights into an adapter.

    The result carries its shared vocabulary and can be given to `vocabkit transfer`.
    """
    from vocabkit.adapter.checkpoint import check_destination
    from vocabkit.shared.shared_vocabulary import open_shared
    from vocabkit.transfer.published import import_published

    check_destination(out, "langbridge")
    adapter = import_published(weights, open_shared(shared), llm, vision=vision, layer=layer)
    adapter.save(out)
    config = adapter.config
    if json:
        show_json({"file": out, "config": config})
        return
    say(f"{out}: {config.head} head, {config.rows:,} rows, hidden {config.hidden_width:,}, trained with {llm}")
    if config.vision_model is None or config.vision_layer is None:
        note("its vision model and layer are not recorded, so wrong features would not be noticed: --vision, --layer")
    else:
        say(f"features: {config.vision_model}, layer {config.vision_layer}")


def _load(source: str) -> LangBridgeAdapter:
    from vocabkit.adapter.model import LangBridgeAdapter

    return LangBridgeAdapter.from_pretrained(source, kind="langbridge")


def _target(argument: str, weights: str | None) -> Target:
    from vocabkit.transfer.target import open_target

    with byte_progress(f"embedding rows of {argument}") as progress:
        target, found = open_target(argument, weights=weights, has_option=True, progress=progress)
    rows = f"{target.embeddings.num_rows:,} embedding rows of {target.embeddings.source}"
    note(f"{argument}: {len(found.vocabulary):,} ids, {found.how}; {rows}")
    return target


def _validation(path: Path) -> dict[str, Result]:
    from vocabkit.report.html.transfer import read_validation

    return read_validation(path)


def _features(path: Path, adapter: LangBridgeAdapter, limit: int) -> Tensor:
    from vocabkit.vision.feature_files import read_features

    return read_features(path, width=adapter.config.vision_width, limit=limit)


def _export_size(export: Export, config: MLPConfig, target: Target, vision: str | None, llm: str) -> int:
    from vocabkit.llm.model_folders import model_folder
    from vocabkit.transfer.export.size import export_size

    needed = vision is not None and export in (Export.llava, Export.mmproj)
    folder = model_folder(vision) if needed and vision is not None else None
    return export_size(export.value, config, target.embeddings.dtype, folder, llm)


def check_export(export: Export | None, out: Path | None, vision: str | None, *, keep_cls: bool) -> None:
    """Before the work. Raises VocabkitError: options that do not go together, or a place that is taken."""
    from vocabkit.adapter.checkpoint import check_destination
    from vocabkit.errors import VocabkitError

    if export in (Export.llava, Export.mmproj) and vision is None:
        raise VocabkitError(f"--export {export} needs the vision model that the adapter was trained with: add --vision")
    if export in (Export.llava, Export.mmproj) and vision == "efficientnet-lite0":
        raise VocabkitError(
            f"efficientnet-lite0 is no vision transformer, so {export} can't hold it; run the adapter with vocabkit "
            "(`vocabkit infer`), or export projector"
        )
    if keep_cls and export is not Export.llava:
        raise VocabkitError("--keep-cls is about a Llava checkpoint: add --export llava, or leave it out")
    if export is not None and out is not None:
        check_destination(out, "mlp" if export is Export.projector else export.value)


def check_trained_features(export: Export, config: AdapterConfig | MLPConfig, *, keep_cls: bool) -> None:
    """Before the work. Raises VocabkitError: the adapter was trained on features that the export's program can't make.

    Args:
        keep_cls: whether the option is there; without, what the adapter records holds.
    """
    from vocabkit.transfer.export.vision import check_features

    if export is Export.llava:
        check_features("a Llava checkpoint", config, keep_cls=keep_cls or bool(config.vision_keep_cls))
    elif export is Export.mmproj:
        check_features("llama.cpp", config, keep_cls=False)


def write_export(
    projector: MLPProjector, out: Path, export: Export, vision: str | None, llm: str | None, *, keep_cls: bool
) -> None:
    """Write `projector` as another program wants it."""
    if export is Export.projector:
        projector.save(out)
    elif export is Export.mm_projector:
        from vocabkit.transfer.published import export_mm_projector

        export_mm_projector(projector, out)
    else:
        from vocabkit.llm.load import is_lora, llm_folder, llm_source, lora_base
        from vocabkit.llm.model_folders import model_folder

        assert vision is not None
        layer = -2 if projector.config.vision_layer is None else projector.config.vision_layer
        encoder = model_folder(vision)
        if export is Export.mmproj:
            from vocabkit.transfer.export.mmproj import export_mmproj

            export_mmproj(projector, encoder, out, feature_layer=layer)
        else:
            from vocabkit.transfer.export.llava import check_vision, export_llava

            assert llm is not None
            keep = keep_cls or bool(projector.config.vision_keep_cls)
            check_vision(projector, encoder, layer, keep_cls=keep)
            if projector.config.vision_model is None:
                projector.config = dataclasses.replace(projector.config, vision_model=vision)
            source = llm_source(llm)
            if source.suffix == ".gguf":
                note(f"{llm}: dequantising it to bfloat16, which takes a while")
            elif is_lora(source):
                note(f"{llm}: merging its LoRA weights into {lora_base(source)}")
            with llm_folder(llm) as folder, byte_progress("writing the LLM") as progress:
                export_llava(projector, encoder, folder, out, feature_layer=layer, keep_cls=keep, progress=progress)


# MERGED: distill and export: a projector that stock programs can hold, and the formats that they read.


def distill(
    adapter: Annotated[str, typer.Argument(help="What `transfer --out` wrote: folder or .pt.", show_default=False)],
    features: Annotated[Path, typer.Option(help="Patch features to fit on, of `vocabkit features`.")],
    out: Annotated[Path, typer.Option(help="Folder or *.pt for the projector.")],
    data: Annotated[
        list[Path] | None,
        typer.Option(
            help="LLaVA JSON or JSONL with the pictures to fit on; may be repeated. [default: all in FEATURES]",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="Of 1,024 patches each.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Of initial weights, patches and noise.", min=0)] = 0,
    device: Device = "auto",
    json: AsJson = False,
) -> None:
    """Fit a stock two-layer projector to a transferred adapter that does not fold into one.

    Its head is a softmax, or linear with more hidden units than the LLM is wide. The projector serves this one LLM and
    only approximates the adapter: the error on held-out pictures is reported and recorded. What it costs in caption
    loss is told by `vocabkit validate`; `vocabkit export` writes it for other programs.
    """
    from vocabkit.adapter.checkpoint import check_destination
    from vocabkit.adapter.model import LangBridgeAdapter
    from vocabkit.data.llava import read_llava
    from vocabkit.llm.devices import keep_freed_memory, open_device
    from vocabkit.transfer.distill import distil
    from vocabkit.vision.features import open_features

    keep_freed_memory()
    check_destination(out, "mlp")
    place = open_device(device)
    keys = None if not data else {image.key for file in data for sample in read_llava(file) for image in sample.images}
    moved, cache = LangBridgeAdapter.from_pretrained(adapter, kind="transferred"), open_features(features)
    with show_progress() as progress:
        projector, report = distil(moved, cache, keys=keys, steps=steps, seed=seed, device=place, progress=progress)
    projector.save(out)
    if report.warning:
        note(f"warning: {report.warning}")
    if json:
        show_json({"file": out, "config": projector.config, "report": report, "warning": report.warning})
        return
    say(
        f"{out}: a projector for {report.llm}, fitted on {report.pictures:,} pictures; relative error "
        f"{report.relative_error:.3f} on {report.held_out:,} others (0 is the adapter itself, 1 the mean token)"
    )


def export(
    projector: Annotated[
        str,
        typer.Argument(
            help="A distilled projector, an MLP, or a transferred adapter with a linear head: folder, .pt or hub id.",
            show_default=False,
        ),
    ],
    form: Annotated[Export, typer.Option("--as", help="What to write, as for `transfer --export`.")],
    out: Annotated[Path, typer.Option(help="Folder or file to write.")],
    llm: Annotated[str | None, typer.Option(help="The LLM, for --as llava.", show_default=False)] = None,
    vision: Annotated[
        str | None, typer.Option(help="Vision model, folder or hub id, for --as llava and mmproj.", show_default=False)
    ] = None,
    keep_cls: Annotated[
        bool, typer.Option("--keep-cls", help="For --as llava: the adapter takes the class token, too.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a projector in the format of another program."""
    from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
    from vocabkit.errors import VocabkitError
    from vocabkit.transfer.fold import fold

    check_export(form, out, vision, keep_cls=keep_cls)
    if form is Export.llava and llm is None:
        raise VocabkitError("a Llava checkpoint holds the LLM, too: add --llm")
    loaded = load_adapter(projector)
    if isinstance(loaded, LangBridgeAdapter):
        if loaded.embeddings is None:
            raise VocabkitError(f"{projector}: has no LLM's embeddings in it; `vocabkit transfer` it first")
        loaded = fold(loaded)
    check_trained_features(form, loaded.config, keep_cls=keep_cls)
    write_export(loaded, out, form, vision, llm, keep_cls=keep_cls)
    if json:
        show_json({"file": out, "config": loaded.config})
    else:
        say(f"written: {out}")
