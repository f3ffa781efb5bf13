"""Scenes with questions as people ask them, for a chat template: a sentence about a picture, or what is in it.

    python benchmarks/asked.py SCENES FOLDER

writes each file of SCENES, a folder of `vocabkit scenes`, into FOLDER.
"""

import json
import sys
from pathlib import Path
from typing import Any

DESCRIBE, NAME = "Describe the picture in one sentence.", "Name what is in the picture."


def asked(record: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the record with one of the two questions, in turn."""
    answer = record["conversations"][1]["value"]
    if number % 2:
        answer = answer.rsplit(" on a", 1)[0] + "." if record["background"] else answer
    question = NAME if number % 2 else DESCRIBE
    turns = [
        {"from": "human", "value": f"<image>\n{question}"},
        {"from": "gpt", "value": answer[0].upper() + answer[1:]},
    ]
    return record | {"conversations": turns}


def main() -> None:
    scenes, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(scenes.glob("*.json")):
        records = json.loads(file.read_text())
        (folder / file.name).write_text(json.dumps([asked(record, number) for number, record in enumerate(records)]))


if __name__ == "__main__":
    main()
