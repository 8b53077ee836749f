#!/bin/sh
# The paper's comparison and its controls: sh script/reproduce.sh --dataset NAME [flags of sweep.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
# unimodal runs; the paper's four; gain without direction; no rescale; no gain; one scale per encoder;
# Pareto's direction with uniform's magnitude; random weights of the same magnitude
exec "$PYTHON" sweep.py --each_modality --methods joint,uniform,pareto,mmpareto \
    --arm "uniform --encoder_grad_scale 1.5" \
    --arm "mmpareto --rescale none" \
    --arm "mmpareto --gamma 1" \
    --arm "mmpareto --rescale encoder" \
    --arm "mmpareto --rescale encoder --gamma 1" \
    --arm "random_weights" \
    --seeds 0,1,2 --probe linear "$@"
