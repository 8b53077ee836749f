"""The processes that read data for one that trains."""

import os
import signal
import sys
from multiprocessing.queues import Queue


def prepare_worker(worker: int) -> None:
    """Called in each before it reads: it leaves Ctrl-C to the main process, which ends it, and ends
    itself where it cannot hand over a batch, for which the main process would wait for ever.

    Errors of readers reach the main process; a worker prints no traceback.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *exception: None  # of the thread that hands over batches, interrupted
    # the hook that multiprocessing has for errors of that thread: memory or files are short there
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))
