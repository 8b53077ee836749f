#!/bin/sh
# Conventional Pareto: sh script/pareto.sh [flags of train.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec $LAUNCH train.py --method pareto "$@"
