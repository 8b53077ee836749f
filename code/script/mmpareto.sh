#!/bin/sh
# MMPareto: sh script/mmpareto.sh [flags of train.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec $LAUNCH train.py --method mmpareto "$@"
