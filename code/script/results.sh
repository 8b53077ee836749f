#!/bin/sh
# Every table of README, docs and results/, every results/*/summary.csv and the figures that show accuracies,
# made anew from the records in results/: sh script/results.sh
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
set -eu
draw() { # FIGURE RECORDS ... PREFIX
    figure=$1 && shift
    records=
    while [ $# -gt 1 ]; do records="$records ../results/$1" && shift; done
    "$PYTHON" draw.py "$figure" $records --output "$1"
}

"$PYTHON" -m analysis.pages
draw comparison avmnist ../pics/avmnist_comparison
draw curves avmnist ../pics/avmnist_curves
draw plane avmnist ../pics/avmnist_plane
draw overview demo/demo-mmpareto-seed0 ../pics/demo_overview
draw cosine cgmnist/cgmnist-mmpareto-seed0 ../pics/cgmnist_cosine
draw cosine grid/grid-mmpareto-seed0 ../pics/grid_cosine
draw argument avmnist cgmnist grid ../pics/argument
draw power avmnist utd_mhad mfeat ../pics/power
for set in utd_mhad mfeat; do
    "$PYTHON" draw.py rates "../results/$set/tuning" --arm joint --arm uniform --arm "uniform --encoder_grad_scale 1.5" \
        --arm "uniform --encoder_grad_scale 3.0" --arm pareto --arm mmpareto --arm "uniform --optimizer adamw" \
        --arm "mmpareto --optimizer adamw" --output "../pics/${set}_rates"
done
"$PYTHON" multitask.py --from ../results/multimnist --figure ../pics/multimnist_plane
