"""Commands about pictures: infer and interpret."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from .options import (
    TEMPLATE,
    AsJson,
    AspectRatio,
    Device,
    Everything,
    Html,
    ImageColumn,
    Images,
    OtherWeights,
    Overwrite,
    PartOf,
    Pool,
    ShardsOut,
    Split,
    Vision,
    aspect_ratio,
    check_data,
    check_device,
    check_llms,
    check_page,
    check_shards_out,
    check_source,
    grid_size,
    kept_shards,
    page_origin,
    part_of,
    write_page,
)
from .show import note, note_broken, note_left, say, show, show_json, show_progress


class Dtype(enum.StrEnum):
    """Dtype of the models."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def infer(
    adapter: Annotated[
        str, typer.Argument(help="A checkpoint folder, an adapter.pt, or a hub id.", show_default=False)
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Images, folders of images, LLaVA JSON, tars, Parquet, or Hugging Face datasets (folder or hub id). "
            "Also URLs (s3://...) and patterns (shard-{000..010}.tar).",
            show_default=False,
        ),
    ],
    out: ShardsOut,
    llm: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="The LLM: for --captions, and for visual tokens of an adapter that was not transferred.",
            show_default=False,
        ),
    ] = None,
    other_weights: OtherWeights = False,
    vision: Vision = None,
    keep_cls: Annotated[
        bool,
        typer.Option("--keep-cls", help="Keep class and register tokens, for an adapter that does not record it."),
    ] = False,
    pool: Pool = None,
    image_aspect_ratio: AspectRatio = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Write the K tokens with the largest coefficients of each patch."),
    ] = None,
    words: Annotated[
        bool,
        typer.Option("--words", help="Write each picture's words, and a prompt with which any LLM can read them."),
    ] = False,
    prompt_embeds: Annotated[
        bool,
        typer.Option(
            "--prompt-embeds",
            help="Write visual tokens for vLLM's --enable-prompt-embeds, which is for trusted clients only.",
        ),
    ] = False,
    captions: Annotated[bool, typer.Option("--captions", help="Have the LLM caption the pictures.")] = False,
    visual_tokens: Annotated[
        bool, typer.Option("--visual-tokens", help="Write visual tokens as well as what else is asked for.")
    ] = False,
    question: Annotated[
        str | None,
        typer.Option(
            help="Prompt for the captions, with <image> in place of the picture. By default the adapter's own."
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help=f"{TEMPLATE} By default completion if there is a prompt, else plain."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum caption tokens.")] = 64,
    images: Images = None,
    split: Split = "train",
    image_column: ImageColumn = "image",
    batch: Annotated[int, typer.Option(min=1, help="Pictures per batch.")] = 32,
    partition: PartOf = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Dtype of models and visual tokens; auto is bfloat16 on a GPU, else float32.")
    ] = Dtype.auto,
    device: Device = "auto",
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time went.")] = False,
    json: AsJson = False,
) -> None:
    """Compute visual tokens, words or captions of pictures.

    Safe to kill; the next run resumes. Missing and broken pictures are reported and left out.
    """
    from vocabkit.errors import VocabkitError, counted
    from vocabkit.files.memory import keep_freed_memory
    from vocabkit.llm.prompts import check_question, parse_template

    keep_freed_memory()
    if captions and llm is None:
        raise VocabkitError("--captions: also give --llm as NAME=SOURCE, the LLM that writes them")
    form = None if template is None else parse_template(template)
    if captions and question is not None:
        check_question(question, form or "completion")
    check_device(device)
    check_source(adapter)
    check_data(inputs, images=True)
    check_llms([llm] if llm else [])
    check_shards_out(out)
    given = {
        "llm": llm, "other_weights": other_weights, "vision": vision, "keep_cls": keep_cls or None,
        "pool": grid_size(pool), "image_aspect_ratio": aspect_ratio(image_aspect_ratio), "top": top,
        "words": words, "prompt_embeds": prompt_embeds, "captions": captions,
        "visual_tokens": visual_tokens or None, "question": question,
        "template": form, "max_new_tokens": max_new_tokens, "images": images, "split": split,
        "image_column": image_column, "partition": part_of(partition), "batch": batch, "dtype": dtype.value,
        "device": device,
    }  # fmt: skip
    with show_progress(lambda: kept_shards(out)) as progress:
        from vocabkit.infer import infer as library
        from vocabkit.llm.devices import fitting_memory

        with fitting_memory(batch):
            found = library.infer(adapter, inputs, out, **given, progress=progress)
    report = found.report
    if json:
        show_json(found)
        return
    say(
        f"{out}: results of {counted(report.present + report.computed, 'picture')}; "
        f"{report.present:,} were already there, {report.computed:,} computed on {found.device} in "
        f"{found.settings['dtype']}, {report.per_second:,.1f} per second"
    )
    for picture, caption in report.first_captions.items():
        say(f"  {picture}: {caption}")
    for picture, seen in report.first_words.items():
        say(f"  {picture}: {', '.join(word.text for word in seen)}")
    if report.reading is not None:
        say("prompt for an LLM, with the words of a picture in place of <image>:")
        for line in report.reading.strip().splitlines():
            say(f"  {line}", unbroken=True)
    note_broken(report.broken, report.pictures, report.first_broken)
    note_left(report.left)
    if profile:
        say(f"{report.profile.seconds:.1f} s of wall time:")
        for stage, share in report.profile.shares.items():
            say(f"  {share:6.1%}  {stage}")
        if report.profile.busy is not None:
            say(f"  {report.profile.busy:6.1%}  GPU busy")


def interpret(
    adapter: Annotated[str, typer.Argument(help="An adapter: folder, .pt or hub id.", show_default=False)],
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Images, or LLaVA JSON or JSONL files, which also say what their images show.",
            show_default=False,
        ),
    ],
    llm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="An LLM whose words to use: a model folder, GGUF, catalog model or hub id; may be repeated. "
            "[default: the adapter's own]",
            show_default=False,
        ),
    ] = None,
    other_weights: OtherWeights = False,
    top: Annotated[int, typer.Option(help="Tokens per patch.", min=1, max=100)] = 5,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Output folder of a training with keep_adapters, to show how words develop.", show_default=False
        ),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            help="Output folder of `infer --captions` with the same inputs, to show beside the pictures what an LLM "
            "wrote.",
            show_default=False,
        ),
    ] = None,
    vision: Vision = None,
    layer: Annotated[
        int | None,
        typer.Option(
            help="Hidden layer of the vision model, numbered as in transformers. [default: as in training]",
            show_default=False,
        ),
    ] = None,
    pool: Pool = None,
    image_aspect_ratio: AspectRatio = None,
    images: Images = None,
    limit: Annotated[int, typer.Option(help="Images from the start of each LLaVA file.", min=1)] = 10,
    html: Html = None,
    overwrite: Overwrite = False,
    everything: Everything = False,
    json: AsJson = False,
) -> None:
    """Show the words that images become, patch by patch.

    For each patch: the nearest tokens in the LLM's whole vocabulary by cosine similarity, and the head's largest
    coefficients. For each image: the tokens with the most mass. For checkpoints: how these develop. No LLM is loaded,
    only its embedding table is read. Missing and broken pictures are reported and left out.
    """
    from vocabkit.files.memory import keep_freed_memory

    check_source(adapter)
    check_llms(llm or ())
    check_page(html, pictures, overwrite)
    grid = grid_size(pool)
    keep_freed_memory()
    with show_progress() as progress:
        from vocabkit.infer.result_files import read_captions
        from vocabkit.interpret import interpret as library

        writer, written = ("", {}) if captions is None else read_captions(captions)
        found = library.interpret(
            adapter, pictures, llms=llm or (), other_weights=other_weights, vision=vision, layer=layer, pool=grid,
            image_aspect_ratio=aspect_ratio(image_aspect_ratio), images=images, limit=limit, top=top,
            checkpoints=checkpoints, written=written, progress=progress,
        )  # fmt: skip
    note_broken(len(found.broken), len(found.images) + len(found.broken), found.broken)
    if html is not None:
        from vocabkit.report.html.interpretation import interpretation_page, picture_uri

        uris = [picture_uri(image) for image in found.images]
        write_page(html, interpretation_page(found, uris, page_origin(found.fingerprints), writer=writer))
    if json:
        show_json(found)
        return
    from vocabkit.report.interpretation import interpretation_report

    show(interpretation_report(found, everything=everything))


def app(
    adapter: Annotated[
        str | None,
        typer.Argument(
            help="An adapter with a head: folder, .pt or hub id. [default: data/scenes-words.pt]", show_default=False
        ),
    ] = None,
    llm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="An LLM to ask: a model folder, GGUF, catalog model or hub id; may be repeated.",
            show_default=False,
        ),
    ] = None,
    other_weights: OtherWeights = False,
    vision: Vision = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum tokens of an answer.")] = 64,
    device: Device = "auto",
    host: Annotated[
        str,
        typer.Option(help="Address to listen at; whoever reaches it can use the page. By default this machine's own."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8017,
    json: AsJson = False,
) -> None:
    """Serve a page to talk to about pictures.

    Shows the words that patches became, and answers of LLMs side by side as they are written.

    The adapter is moved to each LLM in memory. The LLMs are loaded while the page can already be used. Ctrl-C ends it.
    """
    from vocabkit.files.memory import keep_freed_memory
    from vocabkit.tokenizer.catalog import shipped

    source = adapter or str(shipped("scenes-words.pt"))
    check_source(source)
    check_llms(llm or ())
    check_device(device)
    keep_freed_memory()
    with show_progress(lambda: "the page is closed") as progress:
        from vocabkit.app.server import address, listen, serve
        from vocabkit.app.talk import open_talk

        sock = listen(host, port)
        progress("opening the adapter", 0, None)
        talk = open_talk(
            source, llm or (), vision=vision, other_weights=other_weights, max_new_tokens=max_new_tokens, device=device
        )
    if json:
        show_json({"url": address(sock), "adapter": source, "llms": llm or (), "fingerprints": talk.fingerprints})
    else:
        say(f"open in a browser: {address(sock)}")
        note("Ctrl-C ends it")
    serve(talk, sock, host)
