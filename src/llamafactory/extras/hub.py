# SPDX-License-Identifier: Apache-2.0
"""Hubs: one that does not answer is named after seconds and asked no more; uploads are refused before the work."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from .errors import ConfigError, in_one_line
from .logging import get_logger

logger = get_logger(__name__)

_PATIENCE = 3.0  # seconds
_WHOAMI = 20.0  # seconds for a hub that answers to say who the user is
_OVERLOADED = (500, 502, 503, 504)  # what the hubs' libraries ask again after
_OTHER_HUBS = {"ms": ("MODELSCOPE_DOMAIN", "www.modelscope.cn"), "om": ("OPENMIND_HUB_ENDPOINT", "modelers.cn")}


@cache
def look_for_hub() -> bool:
    """Look once whether the Hugging Face hub answers; if not, say so, and let its library take what is on this machine.

    By itself the library tries again and again, for half a minute a file.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    if _answers(constants.ENDPOINT, get_session().head):
        return True
    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True
    if "datasets.config" in sys.modules:
        sys.modules["datasets.config"].HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
    return False


@cache
def look_for_other_hub(place: str) -> bool:
    """Look once whether ModelScope (``ms``) or Modelers (``om``) answers; if not, say so."""
    import requests

    variable, domain = _OTHER_HUBS[place]
    address = os.environ.get(variable) or domain
    return _answers(address if "://" in address else f"https://{address}", requests.head)


def _answers(address: str, head: Callable[..., Any]) -> bool:
    """Whether a hub answers at all; a refusal is an answer, left to the request that meets it."""
    # Whatever the client raises: its HTTP library changes with its version.
    try:
        with in_one_line(f"no hub at {address}"):
            status = _within(_PATIENCE, lambda: head(address, timeout=2 * _PATIENCE).status_code)
            if status in _OVERLOADED:
                raise ConfigError(f"no hub at {address}: it answers {status}")
    except ConfigError as error:
        logger.warning("%s; only what is on this machine is used", error)
        return False
    return True


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """What a call gives that may never end; the limits of HTTP clients are for each piece that they wait for.

    Raises:
        TimeoutError: It takes longer.
        BaseException: What the call raises.
    """
    ended: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            ended.append((call(), None))
        except BaseException as error:  # handed on to who waits
            ended.append((None, error))

    waiting = threading.Thread(target=run, daemon=True)
    waiting.start()
    waiting.join(seconds)
    if not ended:
        raise TimeoutError(f"no answer in {seconds:g} s")
    result, error = ended[0]
    if error is not None:
        raise error
    return result


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
        if not look_for_hub():
            raise ConfigError(f"{key}: nothing can be pushed: the hub does not answer")
        _within(_WHOAMI, HfApi(token=token).whoami)


@contextmanager
def pushing(key: str, kept: object) -> Iterator[None]:
    """Say in one line why an upload failed, and where its content is.

    Raises:
        ConfigError: It failed.
    """
    with in_one_line(f"{key}: {kept} is written and whole, but could not be pushed"):
        yield
