"""The processes that read data for one that trains."""

import os
import signal
import sys
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from threading import Thread


def prepare_worker(worker: int) -> None:
    """Called in each before it reads: it leaves Ctrl-C to the main process, with which it ends,
    however that does, and ends itself where it cannot hand over a batch, for which the main process
    would wait for ever.

    Errors of readers reach the main process; a worker prints no traceback.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # PyTorch looks for another parent than at the start of its loop: one that died before lives on
    Thread(target=end_with, args=(parent_process(),), daemon=True).start()
    sys.excepthook = lambda *exception: None  # of the thread that hands over batches, interrupted
    # the hook that multiprocessing has for errors of that thread: memory or files are short there
    Queue._on_queue_feeder_error = staticmethod(lambda error, batch: os._exit(1))


def end_with(process: BaseProcess) -> None:
    process.join()
    os._exit(1)
