"""The C library's memory settings for tensors that come and go at every step."""

import contextlib
import ctypes
import functools

# From malloc.h of the GNU C library.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024
TRIM_THRESHOLD = 512 * 1024 * 1024


@functools.cache
def keep_freed_memory() -> None:
    """Have this process keep what it frees instead of giving it back to the system.

    Tensors of a megabyte are otherwise mapped anew, and zeroed page by page, at every step: a step
    of a stack took up to twice as long. Does nothing where there is no GNU C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        library.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
