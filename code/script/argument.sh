#!/bin/sh
# The paper's argument measured link by link, from training to tables and figure:
#     sh script/argument.sh NAME [flags of sweep.py and train.py, such as --seeds 0,1,2,3,4 --jobs 2]
#     sh script/argument.sh      all of results/argument.md: its data sets, prepared, with its settings
# Into runs/argument, or $RUNS. Interrupted or killed, the same command goes on.
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
set -eu
: "${RUNS:=runs/argument}"

train() { # NAME FLAGS; the last arm has the gain without any direction
    NAME=$1 && shift
    "$PYTHON" sweep.py --dataset "$NAME" --ckpt_path "$RUNS" --seeds 0,1,2 --methods uniform,pareto,mmpareto \
        --arm "uniform --encoder_grad_scale 1.5" "$@"
}

if [ $# -gt 0 ]; then
    train "$@"
else
    train avmnist --seeds 0,1,2,3,4
    train cgmnist --epochs 4
    train grid --seeds 0,1,2,3,4 --schedule cosine
fi
"$PYTHON" argument.py "$RUNS"/*-seed* --output "$RUNS/argument.md"
"$PYTHON" draw.py argument "$RUNS"/*-seed* --output "$RUNS/argument"
