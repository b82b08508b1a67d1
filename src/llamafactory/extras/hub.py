# SPDX-License-Identifier: Apache-2.0
"""The Hugging Face hub: without it its library asks nobody; uploads are refused before the work, or lose nothing."""

from __future__ import annotations

import os
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit

from .errors import ConfigError, first_line, in_one_line
from .logging import get_logger

logger = get_logger(__name__)

_PATIENCE = 3.0  # seconds


@cache
def look_for_hub() -> None:
    """Look once whether the hub can be reached; if not, say so, and let its library take what is on this machine.

    By itself the library tries again and again, for half a minute a file.
    """
    from huggingface_hub import constants

    address = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or address.scheme in urllib.request.getproxies():
        return
    host, port = address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except OSError as error:
        logger.warning("no hub at %s:%d (%s): only what is on this machine is used", host, port, first_line(error))
        os.environ["HF_HUB_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        if "datasets.config" in sys.modules:
            sys.modules["datasets.config"].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def require_hub(key: str, repo: str | None, token: str | None) -> None:
    """Refuse an upload that cannot succeed, before anything slow happens.

    Args:
        key: That asks for it.
        repo: Name of the repository; None = made of the folder's name.
        token: The user's; None = the one that the environment or ``hf auth login`` keeps.

    Raises:
        ConfigError: The name is none, or the hub is not reached or does not know the user.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.utils import validate_repo_id

    # Whatever the hub's client raises: its HTTP library changes with its version.
    with in_one_line(f"{key}: nothing can be pushed"):
        if repo is not None:
            validate_repo_id(repo)
        if constants.HF_HUB_OFFLINE:
            raise ConfigError(f"{key}: nothing can be pushed while HF_HUB_OFFLINE is set; unset it, or leave {key} out")
        if not (token or get_token()):
            raise ConfigError(f"{key}: needs a token of the hub; give hf_hub_token, set HF_TOKEN or `hf auth login`")
        HfApi(token=token).whoami()


@contextmanager
def pushing(key: str, kept: object) -> Iterator[None]:
    """Say in one line why an upload failed, and where its content is.

    Raises:
        ConfigError: It failed.
    """
    with in_one_line(f"{key}: {kept} is written and whole, but could not be pushed"):
        yield
