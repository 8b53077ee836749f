"""NPROC processes of one run: torchrun, ending in one line where one of them fails.

python script/launch.py [flags of torchrun] train.py [flags of train.py]
"""

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

if __name__ == "__main__":
    logging.disable(logging.ERROR)  # its account of the failure: a page that hides the cause
    try:
        run(get_args_parser().parse_args())
    except ChildFailedError as error:
        # status 3 is of those that stop since another has ended; both may be seen at once
        rank, failure = min(
            error.failures.items(), key=lambda item: (item[1].exitcode == 3, item[1].timestamp)
        )
        print(f"process {rank} ended first, with status {failure.exitcode}", file=sys.stderr)
        sys.exit(max(failure.exitcode, 1))
    except KeyboardInterrupt:
        sys.exit(130)
