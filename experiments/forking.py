"""The server that worker processes are forked from; importing this module imports nothing heavy."""

import signal
from multiprocessing import forkserver, resource_tracker

# What the server has loaded already when a worker is forked from it; an optimiser's first step
# would import torch._dynamo, which takes a second.
PRELOADED = ["losslab.experiments.work", "losslab.experiments.stacked", "torch._dynamo"]


def start_server() -> None:
    """Start the server, deaf to Ctrl-C, which is the driver's; it loads while the driver goes on.

    Does nothing where it runs already.
    """
    forkserver.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # first: starting it unblocks the signal
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
