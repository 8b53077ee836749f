#!/bin/sh
# A worker for `sweep.py --scheduler`: sh script/worker.sh tcp://HOST:8786 [flags of dask worker, such as --nworkers 4]
cd "$(dirname "$0")/.." || exit 1
. script/env.sh
export DASK_DISTRIBUTED__WORKER__DAEMON=False # runs may start processes that read data
: "${MALLOC_TRIM_THRESHOLD_:=1073741824}" # Dask sets 64 kB: what is given back so soon is asked for in every step
export MALLOC_TRIM_THRESHOLD_
exec "$PYTHON" -m distributed.cli.dask_worker --nthreads 1 --memory-limit 0 --no-dashboard "$@"
