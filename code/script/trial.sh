#!/bin/sh
# The fair trial of a data set: sh script/trial.sh --dataset NAME [flags of trial.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec "$PYTHON" trial.py "$@"
