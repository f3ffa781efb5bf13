"""Ask a text-only vLLM about a picture, through an adapter's visual tokens: nothing is exported.

    vllm serve LLM --enable-prompt-embeds --no-enable-prefix-caching
    python ask_vllm.py moved photo.jpg "What is in the picture?"

LLM is the one that `moved` was transferred to. One server serves any number of adapters for its LLM. Further questions
are read from standard input, a line each; at a terminal, Ctrl-D ends. Prompt embeddings are for trusted clients only:
the server reads tensors that they send, and can't check what these say.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import urllib.request
from http.client import HTTPException
from itertools import chain
from typing import Any

from openai import OpenAI, OpenAIError

from vocabkit.errors import one_line
from vocabkit.serving import prompt_embeds

TRIED = (0, 32)
"""The version of vLLM that this was run with."""


def main() -> None:
    """Hold a conversation about one picture."""
    parser = argparse.ArgumentParser(description="Ask a text-only vLLM about a picture.")
    parser.add_argument("adapter", help="a transferred adapter: folder, .pt or hub id")
    parser.add_argument("picture")
    parser.add_argument("question")
    parser.add_argument("--base-url", default="http://localhost:8000/v1")
    asked = parser.parse_args()

    try:
        converse(asked)
    except KeyboardInterrupt:
        parser.exit(130)
    except (ValueError, OSError, OpenAIError) as error:  # VocabkitError is a ValueError, HTTPError an OSError
        where = f"{asked.base_url}: " if isinstance(error, OpenAIError) else ""
        parser.exit(2, f"error: {where}{one_line(str(error))}\n")


def converse(asked: argparse.Namespace) -> None:
    """Print an answer to the first question, and to each line of standard input."""
    warn(asked.base_url.rstrip("/").removesuffix("/v1"))
    client = OpenAI(base_url=asked.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    (picture,) = prompt_embeds(asked.adapter, [asked.picture])
    content: Any = [picture, {"type": "text", "text": asked.question}]  # vLLM puts a new line between them
    messages: list[Any] = []
    for each in chain([content], filter(None, map(str.strip, sys.stdin))):
        messages.append({"role": "user", "content": each})
        answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=200)
        said = answer.choices[0].message.content or ""
        messages.append({"role": "assistant", "content": said})
        print(said.strip(), flush=True)


def warn(server: str) -> None:
    """Tell what is known to go wrong with this server."""
    found = re.findall(r"\d+", get(f"{server}/version"))
    if tuple(map(int, found[:2])) < TRIED:
        print(f"vLLM {'.'.join(found[:3])} is older than what this was tried with, 0.32", file=sys.stderr)
    if 'enable_prefix_caching="True"' in get(f"{server}/metrics"):
        told = "the server caches prefixes: it may answer about an earlier picture (vLLM issue 56655)"
        print(f"{told}; start it with --no-enable-prefix-caching", file=sys.stderr)


def get(url: str) -> str:
    """What a vLLM server answers there. Raises OSError: it doesn't."""
    try:
        with urllib.request.urlopen(url) as reply:
            return str(reply.read().decode())
    except (OSError, HTTPException) as error:
        raise OSError(f"{url}: {error}; is this a vLLM server?") from error


if __name__ == "__main__":
    main()
