#!/usr/bin/env bash
# Text files to a trained model of the recipe `base` in one command, on a machine lent for a while:
#
#   CORPUS=folder OUT=folder [MAX_SECONDS=1500] recipes/base.sh [options of openglm pretrain]
#
# CORPUS holds {zh,en}-{train,valid}*.jsonl.zst. OUT gets the prepared text (data/) and the run
# (run/): bring it back and the same command goes on, until run/model is there. What is done is
# not done again. TOKENIZER (default: the embedded model's) and PYTHON may be set too.
set -euo pipefail
corpus=$(cd "${CORPUS:?set CORPUS to the folder of the text}" && pwd)
mkdir -p "${OUT:?set OUT to the folder of the results}"
out=$(cd "$OUT" && pwd)
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
openglm=("${PYTHON:-python3}" -m openglm)
tokenizer=${TOKENIZER:-src/openglm/default_model}
begun=$SECONDS

for part in zh-train en-train zh-valid en-valid; do
    if [ ! -f "$out/data/$part/manifest.json" ]; then
        "${openglm[@]}" data prepare --tokenizer "$tokenizer" --output "$out/data/$part" "$corpus/$part*.jsonl.zst"
    fi
done
limit=()
if [ -n "${MAX_SECONDS:-}" ]; then
    left=$((MAX_SECONDS - SECONDS + begun))
    limit=(--max-seconds $((left > 0 ? left : 1)))
fi
exec "${openglm[@]}" pretrain base --tokenizer "$tokenizer" \
    --data zh="$out/data/zh-train" --data en="$out/data/en-train" \
    --valid zh="$out/data/zh-valid" --valid en="$out/data/en-valid" \
    --output "$out/run" "${limit[@]}" "$@"
