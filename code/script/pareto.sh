#!/bin/sh
# Conventional Pareto: sh script/pareto.sh [flags of train.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec "$PYTHON" train.py --method pareto "$@"
