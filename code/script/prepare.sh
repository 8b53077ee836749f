#!/bin/sh
# A data set: sh script/prepare.sh NAME [flags of dataset/prepare/NAME.py, such as --source DIR];
# a further modality of one: sh script/prepare.sh derive edge|flow|grey --data_root DIR --source MODALITY
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
NAME=${1:-}
[ -f "dataset/prepare/$NAME.py" ] ||
    fail "prepare.sh ${NAME:-(no name)}: choose from" $(cd dataset/prepare && ls ./[!_]*.py | sed 's,^\./,,; s,\.py$,,')
shift
exec "$PYTHON" -m "dataset.prepare.$NAME" "$@"
