"""How a process treats the memory of images that it has finished with."""

import ctypes
from contextlib import suppress


def keep_memory() -> None:
    """Let this process keep the memory of images that it has finished with.

    glibc returns blocks of an image's size to the kernel at once, and new blocks cost a sixth of a loader's time
    (benchmarks/loader.py), and of a decoder's. Other C libraries are left unchanged.
    """
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_threshold, 32 << 20)
        mallopt(m_trim_threshold, 128 << 20)
