#!/bin/sh
# The paper's comparison and its controls on one data set, from training to tables and figures:
#     sh script/reproduce.sh NAME [flags of sweep.py and train.py, such as --seeds 0,1,2,3,4 --jobs 2]
#     RUNS=runs/try sh script/reproduce.sh demo --seeds 0 --epochs 2
# A list of commands, to be edited. Interrupted or killed, the same command goes on.
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
set -eu
NAME=${1:?"name a data set, a file of dataset/"}
shift
: "${RUNS:=runs/$NAME}" "${PICS:=$RUNS/pics}" "${RECORDS:=$RUNS/records}"

sweep() { "$PYTHON" sweep.py --dataset "$NAME" --ckpt_path "$RUNS" --seeds 0,1,2 "$@"; }
draw() { FIGURE=$1 && shift && "$PYTHON" draw.py "$FIGURE" "$@" --output "$PICS/${NAME}_$FIGURE"; }
GAIN="uniform --encoder_grad_scale 1.5" # the gain without any direction

# the runs that figures show, and every probe of them
sweep --methods joint,uniform,pareto,mmpareto --arm "$GAIN" \
    --probe linear,missing,noise,shapley,calibration "$@"
# each modality alone, and Table 1's "unimodal pre-trained & fine-tune" from their encoders
sweep --each_modality --probe linear "$@"
sweep --arm "joint --init_encoders $RUNS/$NAME-joint-modalities-{modality}-seed{seed}" \
    --probe linear --checkpoints delete "$@"
# direction and magnitude without the gain; the magnitude not restored; one scale per encoder, the
# paper's text; exactly uniform's magnitude; random weights; other gains
sweep --arm "mmpareto --gamma 1" --arm "mmpareto --rescale none" --arm "mmpareto --rescale encoder" \
    --arm "mmpareto --rescale encoder --gamma 1" --arm random_in_conflict \
    --arm "mmpareto --gamma 2" --arm "mmpareto --gamma 3" --probe linear --checkpoints delete "$@"
# Table 1's rivals
sweep --methods ogm,agm,pmr --arm "g_blending --val_fraction 0.1" --arm "greedy --fusion mmtm" \
    --probe linear --checkpoints delete "$@"

R=$RUNS/$NAME
SHOWN=$(ls -d "$R"-joint-seed* "$R"-uniform-seed* "$R"-pareto-seed* "$R"-mmpareto-seed* \
    "$R"-uniform-encoder_grad_scale-*)
MMPARETO=$(ls -d "$R"-mmpareto-seed* | head -n 1)
"$PYTHON" argument.py $SHOWN --output "$RUNS/argument.md"
"$PYTHON" report.py "$R"-joint-[im]* $SHOWN "$R"-mmpareto-[!s]* "$R"-random_in_conflict-* \
    "$R"-ogm-* "$R"-agm-* "$R"-pmr-* "$R"-g_blending-* "$R"-greedy-* \
    --records "$RECORDS" --steps "$(basename "$MMPARETO")"
draw poster $SHOWN
draw argument $SHOWN
draw comparison $SHOWN
draw cosine "$MMPARETO"
draw plane $SHOWN
draw norms "$MMPARETO"
draw weights "$MMPARETO"
draw curves $SHOWN
draw gamma "$R"-mmpareto-seed* "$R"-mmpareto-gamma-*
draw landscape $SHOWN
draw features "$(ls -d "$R"-joint-seed* | head -n 1)" "$MMPARETO"
draw noise $SHOWN
