#!/bin/sh
# The tests, a process per core: sh script/test.sh [flags of pytest, such as -m '' for the slow ones too]
cd "$(dirname "$0")/.." || exit 1
REQUIREMENTS=../requirements-dev.txt
. script/env.sh
"$PYTHON" -m ruff check --quiet .. && "$PYTHON" -m ruff format --quiet --check .. || exit 1
exec "$PYTHON" -m pytest -c ../pyproject.toml tests -n auto --maxprocesses 8 --durations 10 "$@"
