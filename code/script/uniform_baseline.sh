#!/bin/sh
# The uniform baseline: sh script/uniform_baseline.sh [flags of train.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec $LAUNCH train.py --method uniform "$@"
