#!/bin/sh
# The whole test suite: sh script/test.sh [flags of pytest]
cd "$(dirname "$0")/.." || exit 1
REQUIREMENTS=../requirements-dev.txt
. script/env.sh
"$PYTHON" -m ruff check --quiet .. && "$PYTHON" -m ruff format --quiet --check .. || exit 1
exec "$PYTHON" -m pytest -c ../pyproject.toml tests "$@"
