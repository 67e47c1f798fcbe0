"""One process at a time, of all that share a cache: the others wait, and then find what it has brought."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

LOCKS_FOLDER = ".locks"
"""In the cache's root, beside the models: a download removes from a model's own folder what it does not list."""


@contextmanager
def one_at_a_time(root: Path, name: str) -> Iterator[None]:
    """Holds the lock of ``name`` in the cache at ``root``, however long the process that has it takes.

    The kernel releases it when its process ends, in whatever way, so none is left behind by a pod that was killed.
    Where no lock can be had, everyone goes on at once: on a file system without locks, files still arrive whole, only
    more often than needed; where nothing can be written, what is there already can still be used.
    """
    path = root / LOCKS_FOLDER / f"{name}.lock"
    # A marker of the library's own, which it falls back to otherwise, would outlive a pod that is killed. The next pod
    # may run as another user of the same group.
    lock = FileLock(path, mode=0o664, fallback_to_soft=False)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
