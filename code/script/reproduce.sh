#!/bin/sh
# The paper's comparison and its controls: sh script/reproduce.sh --dataset NAME [--quick] [flags]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec "$PYTHON" reproduce.py "$@"
