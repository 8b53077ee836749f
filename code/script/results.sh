#!/bin/sh
# Every table of README, docs and results/, every results/*/summary.csv and the figures that show accuracies,
# made anew from the records in results/: sh script/results.sh
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
set -eu
draw() { "$PYTHON" draw.py "$1" "../results/$2" --output "../pics/$3_$1"; } # FIGURE RECORDS SET

"$PYTHON" -m analysis.pages
draw comparison avmnist avmnist
draw curves avmnist avmnist
draw plane avmnist avmnist
draw overview demo/demo-mmpareto-seed0 demo
draw cosine cgmnist/cgmnist-mmpareto-seed0 cgmnist
"$PYTHON" multitask.py --from ../results/multimnist --figure ../pics/multimnist_plane
