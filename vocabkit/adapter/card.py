"""Model cards: the README.md of a checkpoint, written from its config alone."""

from __future__ import annotations

from pathlib import PurePath

from vocabkit.adapter.config import AdapterConfig, DistilledFrom, LLMInfo, MLPConfig
from vocabkit.errors import one_line
from vocabkit.hub import is_hub_id
from vocabkit.shared.shared_vocabulary import SharedVocabulary

_ADAPTER = """\
library_name: vocabkit
pipeline_tag: image-text-to-text
tags:
- pytorch_model_hub_mixin
- vision-adapter
"""
_LLAVA = """\
library_name: transformers
pipeline_tag: image-text-to-text
tags:
- llava
- vocabkit
"""


def langbridge_card(config: AdapterConfig, shared: SharedVocabulary) -> str:
    """Return the card of a LangBridgeAdapter."""
    head = "linear" if config.head == "linear" else f"softmax, temperature {config.temperature:g}"
    return _card(
        "LangBridge adapter",
        "Turns patch features of a vision encoder into visual tokens for an LLM. A visual token is a sum of embedding "
        "rows of the LLM, over a vocabulary that several tokenizers share, so the adapter can be moved to another of "
        "these LLMs by exchanging the embedding rows, without training.",
        {
            "Head": head,
            "Trained with": _code(config.llm),
            **_recognised(config.llm_info),
            **_vision(config),
            "Feature width": f"{config.vision_width:,}",
            "Hidden width": f"{config.hidden_width:,}",
            "Rows of the shared vocabulary": f"{config.rows:,}",
            "Tokenizers that share it": ", ".join(map(_code, shared.names)),
            "Fingerprint of the shared vocabulary": _code(config.shared_fingerprint),
            **_prompt(config),
        },
        "## Use\n\n"
        "```python\n"
        "from vocabkit.adapter.model import LangBridgeAdapter\n\n"
        'adapter = LangBridgeAdapter.from_pretrained("PATH_OR_HUB_ID")\n'
        "visual_tokens = adapter(features, embeddings)  # the LLM's rows for adapter.shared, in its order\n"
        "```\n\n"
        "Move it to another LLM:\n\n"
        "```sh\n"
        "vocabkit transfer PATH_OR_HUB_ID --to TARGET\n"
        "```\n\n"
        "How well a moved adapter works depends on its head and its training. This card is written from the "
        "configuration alone and says nothing about quality.\n",
    )


def transferred_card(config: AdapterConfig) -> str:
    """Return the card of a LangBridgeAdapter that was transferred."""
    moved = config.transfer
    assert moved is not None
    return _card(
        "Transferred LangBridge adapter",
        "Turns patch features of a vision encoder into visual tokens of one LLM, which is not the one that it was "
        "trained with: the coefficients are the trained ones, over the embedding rows of the other LLM, kept inside.",
        {
            "Visual tokens for": _code(moved.target),
            **_recognised(moved.llm_info),
            "Trained with": _code(config.llm) + (f", then with {_code(moved.target)}" if moved.trained else ""),
            "Head": config.head,
            **_vision(config),
            "Feature width": f"{config.vision_width:,}",
            "LLM width": f"{moved.target_width:,}",
            "Embedding rows": f"{config.rows:,}, from {_code(moved.embeddings)}",
            "Tokens that the target lacks": {"drop": "dropped", "compose": "composed of the target's own"}.get(
                moved.missing, "none"
            ),
            "Scale of the visual tokens": f"{moved.scale:g}",
            **({} if moved.spelled is None else {"Visual tokens": moved.spelled.in_words()}),
            **_prompt(config),
            "Shared vocabulary of the training": _code(moved.source_fingerprint),
        },
        "## Use\n\n"
        "```python\n"
        "from vocabkit.adapter.model import LangBridgeAdapter\n\n"
        'adapter = LangBridgeAdapter.from_pretrained("PATH_OR_HUB_ID")\n'
        "visual_tokens = adapter(features)\n"
        "```\n\n"
        "The licence of the LLM whose embedding rows are inside applies to them. This card is written from the "
        "configuration alone and says nothing about quality.\n",
    )


def llava_card(config: MLPConfig, name: str, tuned: float = 0.0) -> str:
    """Return the card of an exported Llava checkpoint.

    Args:
        tuned: relative difference of the LLM's embedding rows from those that the projector was made for.
    """
    return _card(
        name,
        "A Llava checkpoint put together by vocabkit: the vision model and the LLM are unchanged, and the projector "
        "between them is an adapter that was folded, or distilled, for this LLM.",
        {
            "LLM": _code(config.llm) + (f" tuned since: {tuned:.2g} of its embedding rows' length" if tuned else ""),
            **_recognised(config.llm_info),
            **_distilled(config.distilled_from),
            **_vision(config),
            "Feature width": f"{config.vision_width:,}",
            "LLM width": f"{config.llm_width:,}",
            **_prompt(config),
        },
        "## Use\n\n"
        "```python\n"
        "from transformers import AutoProcessor, LlavaForConditionalGeneration\n\n"
        'model = LlavaForConditionalGeneration.from_pretrained("PATH_OR_HUB_ID", dtype="auto")\n'
        'processor = AutoProcessor.from_pretrained("PATH_OR_HUB_ID")\n'
        "```\n\n"
        "The licences of the vision model and the LLM apply to their weights. This card is written from the "
        "configuration alone and says nothing about quality.\n",
        _LLAVA,
    )


def hf_card(config: AdapterConfig, name: str, tuned: float = 0.0) -> str:
    """Return the card of a checkpoint for transformers that holds an adapter as it is; `tuned` as for `llava_card`."""
    moved = config.transfer
    assert moved is not None
    return _card(
        name,
        "A vision model, an adapter of vocabkit and an LLM in one checkpoint of transformers, all unchanged: Llava "
        "with the adapter in place of its projector.",
        {
            "LLM": _code(moved.target) + (f" tuned since: {tuned:.2g} of its embedding rows' length" if tuned else ""),
            **_recognised(moved.llm_info),
            "Adapter trained with": _code(config.llm) + (f", then with {_code(moved.target)}" if moved.trained else ""),
            "Head": f"{config.head}, {config.rows:,} rows",
            "Scale of the visual tokens": f"{moved.scale:g}",
            **({} if moved.spelled is None else {"Visual tokens": moved.spelled.in_words()}),
            **_prompt(config),
            **_vision(config),
        },
        "## Use\n\n"
        "```python\n"
        "import vocabkit.serving  # pip install 'vocabkit[adapter]'\n"
        "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
        'model = AutoModelForImageTextToText.from_pretrained("PATH_OR_HUB_ID", dtype="auto")\n'
        'processor = AutoProcessor.from_pretrained("PATH_OR_HUB_ID")\n'
        "```\n\n"
        "The licences of the vision model and the LLM apply to their weights. This card is written from the "
        "configuration alone and says nothing about quality.\n",
        _LLAVA,
    )


def projector_card(config: MLPConfig) -> str:
    """Return the card of an MLPProjector."""
    return _card(
        "MLP projector",
        "The two-layer projector of LLaVA: turns patch features of a vision encoder into visual tokens of one LLM. "
        "It can't be moved to another LLM.",
        {
            "Trained with" if config.distilled_from is None else "Visual tokens for": _code(config.llm),
            **_recognised(config.llm_info),
            **_distilled(config.distilled_from),
            **_vision(config),
            "Feature width": f"{config.vision_width:,}",
            "Hidden width": f"{config.hidden_width:,}",
            "LLM width": f"{config.llm_width:,}",
            **_prompt(config),
        },
        "## Use\n\n"
        "```python\n"
        "from vocabkit.adapter.model import MLPProjector\n\n"
        'projector = MLPProjector.from_pretrained("PATH_OR_HUB_ID")\n'
        "visual_tokens = projector(features)\n"
        "```\n\n"
        "This card is written from the configuration alone and says nothing about quality.\n",
    )


def _card(title: str, purpose: str, facts: dict[str, str], use: str, about: str = _ADAPTER) -> str:
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"---\n{about}---\n\n# {title}\n\n{purpose}\n\n| | |\n|---|---|\n{rows}\n\n{use}"


def _vision(config: AdapterConfig | MLPConfig) -> dict[str, str]:
    facts = {
        "Vision encoder": None if config.vision_model is None else _code(_name(config.vision_model)),
        "Fingerprint of its weights and preprocessing": _code(config.vision_fingerprint or ""),
        "Layer of its features": None if config.vision_layer is None else str(config.vision_layer),
    }
    return {name: fact for name, fact in facts.items() if fact not in (None, "``")}


def _prompt(config: AdapterConfig | MLPConfig) -> dict[str, str]:
    return {} if config.prompt is None else {"Prompt for it": _code(config.prompt)}


def _recognised(llm: LLMInfo | None) -> dict[str, str]:
    """Return what tells the LLM from others."""
    if llm is None:
        return {}
    rows, width = llm.table
    return {
        "Fingerprint of its text tokens": _code(llm.tokenizer),
        "Its embedding table": f"{rows:,} x {width:,}; a sketch of it is in config.json",
    }


def _name(model: str) -> str:
    """Return a hub id or another name; only the last part of a folder's path, which means nothing elsewhere."""
    return model if is_hub_id(model) and not model.startswith(".") else PurePath(model).name


def _distilled(source: DistilledFrom | None) -> dict[str, str]:
    if source is None:
        return {}
    adapter = f"an adapter trained with {_code(source.llm)}, {_code(source.fingerprint)}"
    return {
        "Distilled from": adapter,
        "Error of the distillation": f"{source.relative_error:.3f} of that of the mean token, on held-out pictures",
    }


def _code(text: str) -> str:
    """Return `text` as Markdown code that can't leave its table cell."""
    shown = one_line(text).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`"
