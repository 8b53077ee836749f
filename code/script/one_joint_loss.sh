#!/bin/sh
# One joint loss: sh script/one_joint_loss.sh [flags of train.py]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
exec $LAUNCH train.py --method joint "$@"
