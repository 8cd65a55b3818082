"""Processes that work on the nights of a run, and end with it."""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import threading


def open_pool(jobs: int) -> concurrent.futures.ProcessPoolExecutor:
    """Return a pool of fresh processes; a fork would copy the threads of this one, and locks."""
    return concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
    )


def _end_with_parent():
    """End this worker when its parent is gone; a killed parent would leave it waiting for ever."""
    sentinel = multiprocessing.parent_process().sentinel

    def watch():
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
