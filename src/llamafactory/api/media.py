# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound of a request: where they may come from, and how they are fetched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..data.media.source import MediaError, read_data_url
from ..data.messages import Message, Part
from ..extras.remote_files import RefusedUrlError, fetch
from .errors import ApiError
from .settings import MediaPolicy


class MediaLoader:
    """Replaces what a part names by its bytes.

    Args:
        policy: Where media may come from.
    """

    def __init__(self, policy: MediaPolicy) -> None:
        self._policy = policy

    async def load(self, messages: Sequence[Message], kinds: Sequence[str]) -> list[Message]:
        """Return the messages with the bytes of their media.

        Args:
            messages: As the client sent them.
            kinds: What the model takes, such as ``("image",)``.

        Raises:
            ApiError: The model does not take such a medium, or it may not or cannot be read (400).
        """
        if sum(part.type != "text" for message in messages for part in message.parts) > self._policy.max_parts:
            raise _refused(f"more than {self._policy.max_parts} images, videos and sounds")
        return [
            message
            if all(part.type == "text" for part in message.parts)
            else replace(message, parts=tuple([await self._part(part, kinds) for part in message.parts]))
            for message in messages
        ]

    async def _part(self, part: Part, kinds: Sequence[str]) -> Part:
        if part.type == "text":
            return part
        if part.type not in kinds:
            raise _refused(f"this model does not take {part.type} parts")
        return replace(part, value=await self._bytes(part.value))

    async def _bytes(self, value: Any) -> bytes:
        if not isinstance(value, str):
            raise _refused("expected a URL")
        scheme = value.partition(":")[0].lower()
        if scheme == "data":
            return self._of_data_url(value)
        if scheme in ("http", "https"):
            try:
                return await asyncio.to_thread(fetch, value, self._policy)
            except RefusedUrlError as error:
                raise _refused(str(error)) from None
        return await asyncio.to_thread(self._of_file, value)

    def _of_data_url(self, url: str) -> bytes:
        if len(url.partition(",")[2]) * 3 // 4 > self._policy.max_bytes:
            raise _refused(f"larger than {self._policy.max_bytes} bytes")
        try:
            return read_data_url(url)
        except MediaError as error:
            raise _refused(str(error)) from None

    def _of_file(self, path: str) -> bytes:
        """Read a file below the one folder; the answer does not tell which files there are."""
        refused = _refused("local files are not served, or not this one")
        if self._policy.folder is None or urlsplit(path).scheme or "\0" in path:
            raise refused
        folder = os.path.realpath(self._policy.folder)
        real = os.path.realpath(os.path.join(folder, path))
        if os.path.commonpath([folder, real]) != folder or not os.path.isfile(real):
            raise refused
        if os.path.getsize(real) > self._policy.max_bytes:
            raise refused
        return Path(real).read_bytes()


def _refused(why: str) -> ApiError:
    return ApiError(400, f"messages: {why}", "messages", "media_refused")
