# SPDX-License-Identifier: Apache-2.0
"""What the environment says about the page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ...extras.environment import Environment, is_loopback
from ...extras.errors import ConfigError


@dataclass(frozen=True)
class WebSettings:
    """Settings of the page; :meth:`from_environment` tells the variables.

    Attributes:
        host: Address to bind.
        port: Port to bind; 0 = any free one, ``None`` = the first free one from 7860.
        login: Name and password; ``None`` = no login, and only a loopback address is bound.
        share: Offer the page through gradio's public tunnel.
        root_path: Prefix that a reverse proxy takes off.
        max_body: Largest request body, in bytes.
        max_upload: Largest upload to a model that takes images, videos or sound, in bytes.
        max_waiting: Questions that wait for their turn; more are refused.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    login: tuple[str, str] | None = None
    share: bool = False
    root_path: str = ""
    max_body: int = 2**20
    max_upload: int = 32 * 2**20
    max_waiting: int = 128

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> WebSettings:
        """Read ``GRADIO_SERVER_NAME``, ``_SERVER_PORT``, ``_IPV6``, ``_AUTH``, ``_SHARE`` and ``_ROOT_PATH``.

        Raises:
            ConfigError: A value cannot be read, or others could reach the page without a login.
        """
        read = Environment(environment)
        port = read.number("GRADIO_SERVER_PORT", 0, 0, 65535) if read.text("GRADIO_SERVER_PORT") else None
        settings = cls(
            host=read.text("GRADIO_SERVER_NAME", "::1" if read.switch("GRADIO_IPV6", False) else cls.host),
            port=port,
            login=_login(read.text("GRADIO_AUTH")),
            share=read.switch("GRADIO_SHARE", False),
            root_path=read.text("GRADIO_ROOT_PATH"),
        )
        if settings.login is None and settings.share:
            raise ConfigError("GRADIO_SHARE: a public page needs a login; set GRADIO_AUTH=name:password")
        if settings.login is None and not is_loopback(settings.host):
            raise ConfigError(
                f"GRADIO_SERVER_NAME: {settings.host} can be reached from other machines and needs a login; "
                "set GRADIO_AUTH=name:password, or GRADIO_SERVER_NAME=127.0.0.1"
            )
        return settings


def _login(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, _, password = text.partition(":")
    if not name.strip() or not password:
        raise ConfigError("GRADIO_AUTH: expected name:password")  # the value is a secret and is not repeated
    return name.strip(), password
