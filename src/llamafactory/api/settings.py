# SPDX-License-Identifier: Apache-2.0
"""What the environment says about the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..extras.environment import Environment, is_loopback
from ..extras.errors import ConfigError
from ..extras.remote_files import RemotePolicy, allowed_hosts
from ..hparams import split_list


@dataclass(frozen=True)
class MediaPolicy(RemotePolicy):
    """Where images, videos and sound of a request may come from; data URLs are always taken.

    Attributes:
        folder: Local files below it may be named; ``None`` = no local files.
        max_parts: Most images, videos and sounds of one request.
    """

    folder: str | None = None
    max_parts: int = 64


@dataclass(frozen=True)
class ServerSettings:
    """Settings of the server; :meth:`from_environment` tells the variables.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 = any free one.
        key: Bearer token that requests must carry; ``None`` = no check, and only a loopback address is bound.
        model_name: Name of the served model.
        verbose: 1 = a line in the log for each request, without its content; 2 = bodies too; 0 = neither.
        root_path: Prefix that a reverse proxy takes off.
        max_concurrent: Requests that run at the same time.
        max_queue: Requests that wait for their turn; more are answered 429.
        max_body: Largest request body, in bytes.
        max_depth: Deepest nesting of a request's JSON.
        body_seconds: Longest time that a request's body may take to arrive.
        drain_seconds: How long running requests may go on after SIGTERM.
        hosts: Further names that a request's Host header may have when no key is set.
        origins: Web pages (``https://host``) whose scripts may call the server; ``*`` = all.
        media: Where media may come from.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    key: str | None = None
    model_name: str = "gpt-3.5-turbo"
    verbose: int = 1
    root_path: str = ""
    max_concurrent: int = 32
    max_queue: int = 128
    max_body: int = 32 * 2**20
    max_depth: int = 64
    body_seconds: float = 60.0
    drain_seconds: float = 30.0
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    media: MediaPolicy = field(default_factory=MediaPolicy)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> ServerSettings:
        """Read ``API_*``, ``MAX_CONCURRENT``, ``FASTAPI_ROOT_PATH`` and the media variables.

        Raises:
            ConfigError: A value cannot be read, or an address other than loopback is to be bound without a key.
        """
        read = Environment(environment)
        settings = cls(
            host=read.text("API_HOST", cls.host),
            port=read.number("API_PORT", cls.port, 0, 65535),
            key=environment.get("API_KEY", "").strip() or None,  # a blank one keeps nobody out
            model_name=read.text("API_MODEL_NAME", cls.model_name),
            verbose=_verbosity(environment),
            root_path=environment.get("FASTAPI_ROOT_PATH", cls.root_path),
            max_concurrent=read.number("MAX_CONCURRENT", cls.max_concurrent, 1, 100_000),
            max_queue=read.number("API_MAX_QUEUE", cls.max_queue, 0, 1_000_000),
            max_body=read.number("API_MAX_BODY_MB", cls.max_body // 2**20, 1, 4096) * 2**20,
            drain_seconds=read.number("API_DRAIN_SECONDS", int(cls.drain_seconds), 0, 86400),
            hosts=tuple(host.lower() for host in split_list(environment.get("API_ALLOWED_HOSTS"))),
            origins=tuple(split_list(environment.get("API_CORS_ORIGINS"))),
            media=MediaPolicy(
                folder=read.text("SAFE_MEDIA_PATH", "safe_media") if read.switch("ALLOW_LOCAL_FILES", False) else None,
                hosts=allowed_hosts(environment),
            ),
        )
        if settings.key is None and not is_loopback(settings.host):
            raise ConfigError(
                f"API_HOST: {settings.host} can be reached from other machines and needs an API_KEY; "
                "set API_KEY, or API_HOST=127.0.0.1"
            )
        return settings


def _verbosity(environment: Mapping[str, str]) -> int:
    """0, 1 or 2; words for yes and no are taken as well."""
    if environment.get("API_VERBOSE", "").strip() == "2":
        return 2
    return int(Environment(environment).switch("API_VERBOSE", True))
