"""Ask the server of a text-only LLM about a picture, through the words that an adapter sees in it.

    pip install openai -e '.[adapter]'  # in a clone of vocabkit
    python ask_in_words.py moved photo.jpg "What is in the picture?" --base-url http://localhost:8080/v1

Any server of OpenAI's chat API will do: llama.cpp, Ollama, vLLM, or a hosted model (OPENAI_API_KEY). Further questions
are read from standard input, a line each; at a terminal, Ctrl-D ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import chain

from openai import OpenAI, OpenAIError

from vocabkit.adapter.words import prompt
from vocabkit.errors import one_line
from vocabkit.serving import words


def main() -> None:
    """Hold a conversation about one picture."""
    parser = argparse.ArgumentParser(description="Ask an LLM about a picture, through its words.")
    parser.add_argument("adapter", help="an adapter with a softmax head: folder, .pt or hub id")
    parser.add_argument("picture")
    parser.add_argument("question")
    parser.add_argument("--base-url", default="http://localhost:8080/v1")
    parser.add_argument("--model", help="as the server calls it; by default, its first")
    asked = parser.parse_args()

    try:
        converse(asked)
    except KeyboardInterrupt:
        parser.exit(130)
    except (ValueError, OSError, OpenAIError) as error:  # VocabkitError is a ValueError
        where = f"{asked.base_url}: " if isinstance(error, OpenAIError) else ""
        parser.exit(2, f"error: {where}{one_line(str(error))}\n")


def converse(asked: argparse.Namespace) -> None:
    """Print an answer to the first question, and to each line of standard input."""
    client = OpenAI(base_url=asked.base_url, api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = asked.model or client.models.list().data[0].id
    (seen,) = words(asked.adapter, [asked.picture])
    messages = [{"role": "system", "content": prompt(seen)}]
    for question in chain([asked.question], filter(None, map(str.strip, sys.stdin))):
        messages.append({"role": "user", "content": question})
        answer = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=200)
        said = answer.choices[0].message.content or ""
        messages.append({"role": "assistant", "content": said})
        print(said.strip(), flush=True)


if __name__ == "__main__":
    main()
