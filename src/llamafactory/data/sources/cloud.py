# SPDX-License-Identifier: Apache-2.0
"""Files of object stores (``s3://``, ``gs://`` and whatever else fsspec knows)."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from ...extras.errors import ConfigError, first_line

# What fsspec and its stores raise for an address that does not exist or may not be read, and for no connection.
_FAILURES = (OSError, ValueError, RuntimeError)
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


def open_cloud(address: str) -> IO[bytes]:
    """Open one object for reading."""
    store, path = _store(address)
    try:
        return store.open(path, "rb")
    except _FAILURES as error:
        raise _unreadable(address, error) from None


def list_cloud(address: str, wanted: Callable[[str], bool]) -> list[str]:
    """Return the address itself, or those of the objects right below a folder that are ``wanted`` by name."""
    store, path = _store(address)
    try:
        if not store.isdir(path):
            return [address]
        names = sorted(name.rsplit("/", 1)[1] for name in store.ls(path, detail=False))
    except _FAILURES as error:
        raise _unreadable(address, error) from None
    found = [f"{address.rstrip('/')}/{name}" for name in names if wanted(name)]
    if not found:
        raise ConfigError(f"{address}: no data file in this folder")
    return found


def cloud_version(address: str) -> str:
    """What the store says an object's content is (checksum, or size and time), without reading it."""
    store, path = _store(address)
    try:
        return str(store.ukey(path))
    except _FAILURES as error:
        raise _unreadable(address, error) from None


def _store(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    kind = address.partition("://")[0]
    try:
        return url_to_fs(address)
    except ImportError:
        package = _PACKAGES.get(kind, "the package of this store for fsspec")
        raise ConfigError(f"{address}: needs a package: pip install {package}") from None
    except _FAILURES as error:  # an unknown protocol, or no connection
        raise _unreadable(address, error) from None


def _unreadable(address: str, error: Exception) -> ConfigError:
    return ConfigError(f"{address}: cannot be read: {first_line(error)}")
