"""What vLLM answers about pictures with an exported checkpoint, as JSON: a line for each picture.

    python vllm_answers.py llava-mine "What is in the picture?" photo.jpg ...

`next` holds the five likeliest first tokens and their log-probabilities, to compare with transformers.
"""

from __future__ import annotations

import argparse
import json

from PIL import Image, ImageOps
from vllm import LLM, SamplingParams


def main() -> None:
    """Ask the question about each file, greedily."""
    parser = argparse.ArgumentParser(description="What vLLM answers about pictures.")
    parser.add_argument("checkpoint")
    parser.add_argument("question")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--dtype", default="auto", help="float32 compares to more digits [as vLLM chooses]")
    asked = parser.parse_args()
    llm = LLM(asked.checkpoint, dtype=asked.dtype, limit_mm_per_prompt={"image": 1}, enforce_eager=True, max_num_seqs=2)
    settings = SamplingParams(temperature=0, max_tokens=32, logprobs=5)
    for file in asked.files:
        picture = {"type": "image_pil", "image_pil": ImageOps.exif_transpose(Image.open(file))}
        chat = [{"role": "user", "content": [picture, {"type": "text", "text": asked.question}]}]
        (answer,) = llm.chat([chat], settings, use_tqdm=False)
        said = answer.outputs[0]
        first = {token: value.logprob for token, value in said.logprobs[0].items()}
        row = {"file": file, "prompt_tokens": len(answer.prompt_token_ids), "answer": said.text, "next": first}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
