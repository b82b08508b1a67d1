# SPDX-License-Identifier: Apache-2.0
"""One writer at a time: locks that the kernel takes back when their owner dies, and folders filled under them."""

from __future__ import annotations

import datetime
import glob
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ConfigError, writing
from .logging import get_logger

logger = get_logger(__name__)


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, which names this process, its machine and when it began.

    A lock whose owner was killed is free at once. Where files cannot be locked (Windows), nothing is held.

    Args:
        path: The lock file, in a folder that exists; gone afterwards.
        what: Begins the line that says who holds it: the key and the place.
        wait: Wait for the owner instead of raising.

    Raises:
        ConfigError: Another process holds it, or it cannot be written.
    """
    if sys.platform == "win32":
        yield
        return
    handle = _take(path, what, wait)
    try:
        began = datetime.datetime.now().isoformat(" ", "seconds")
        with writing(path):
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}, since {began}".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Whether another process, or another part of this one, holds a lock file now."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:  # nobody made it
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # files cannot be locked here
        return False
    finally:
        os.close(handle)
    return False


def _take(path: Path, what: str, wait: bool) -> int:
    """Open and lock a file that is still the one of that name: the last owner removes it while others wait."""
    import fcntl

    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ConfigError(f"{what} cannot be written ({error.strerror})") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode("utf-8", "replace") or "another process"
            if not wait:
                os.close(handle)
                raise ConfigError(f"{what} is being written by {owner}; wait for it, or choose another place") from None
            logger.info_rank0("%s is being made by %s; waiting for it", what, owner)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning_once(f"{path} cannot be locked here ({error.strerror}); take care that nobody else writes")
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


@contextmanager
def staging_folder(final: Path, key: str, wait: bool = False) -> Iterator[Path]:
    """A new folder beside ``final`` to fill and then publish; it is gone afterwards if it was not.

    What killed processes left of such folders is removed first: under the lock, none of them is in use.

    Args:
        final: The name it shall have; its parent exists.
        key: Whose value ``final`` is.
        wait: As for :func:`locked`.

    Raises:
        ConfigError: Another process is at it, or nothing can be written there.
    """
    with locked(final.with_name(f".{final.name}.lock"), f"{key}: {final}", wait):
        staging = _new_staging(final)
        try:
            with writing(final):
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _new_staging(final: Path) -> Path:
    prefix = f".{final.name}.staging-"
    for left in final.parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    staging.chmod(0o755)  # mkdtemp made it private
    return staging
