# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound of a row: what its columns name comes to stand where its text has markers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ...extras.errors import ConfigError
from ...extras.remote_files import RefusedUrlError, RemotePolicy, allowed_hosts, fetch
from ..media.source import MediaError, read_data_url
from ..messages import Message, Part, PartType, Sample
from ..sources.dataset_info import DatasetAttr
from .fields import Row, parse_json

# A film of some minutes.
_LARGEST_DOWNLOAD, _DOWNLOAD_SECONDS = 512 * 2**20, 120.0
_MARKERS = {
    "image": ("IMAGE_PLACEHOLDER", "<image>"),
    "video": ("VIDEO_PLACEHOLDER", "<video>"),
    "audio": ("AUDIO_PLACEHOLDER", "<audio>"),
}


def markers() -> dict[str, str]:
    """What stands for each kind of media in the text of rows; variables such as ``IMAGE_PLACEHOLDER`` change it."""
    return {kind: os.environ.get(variable) or usual for kind, (variable, usual) in _MARKERS.items()}


def attach_media(sample: Sample, row: Row, attr: DatasetAttr) -> Sample:
    """Put the media of a row where its text has their markers.

    Args:
        sample: The row's conversation; its text holds the markers.
        row: As it was read.
        attr: Its columns and ``media_dir``. Markers of kinds without a column are text like any other.

    Raises:
        ConfigError: There are more or fewer markers than media, a file is missing, or media are not taken at all.
    """
    columns = {"image": attr.columns.images, "video": attr.columns.videos, "audio": attr.columns.audios}
    named = {kind: column for kind, column in columns.items() if column is not None}
    given = {kind: _listed(row, column) for kind, column in named.items()}
    if attr.media_dir is None:
        for kind, values in given.items():
            if values:
                raise ConfigError(f"field {named[kind]!r}: {refusal(kind)}")
        return sample
    found = {kind: [locate(value, attr, f"field {named[kind]!r}") for value in given[kind]] for kind in given}
    size = len(sample.messages)
    placed = _place((*sample.messages, *(sample.chosen or ())), found, named)
    rejected = sample.rejected and _place((*sample.messages, *sample.rejected), found, named)[size:]
    return replace(
        sample, messages=placed[:size], chosen=sample.chosen and placed[size:], rejected=sample.rejected and rejected
    )


def with_markers(messages: Sequence[Message]) -> list[Message]:
    """The conversation as text: markers stand for its media."""
    names = markers()
    return [
        replace(
            message,
            parts=tuple(part if part.type == "text" else Part("text", names[part.type]) for part in message.parts),
        )
        for message in messages
    ]


def has_media_columns(attr: DatasetAttr) -> bool:
    """Whether rows of a set may have media in columns of their own."""
    columns = attr.columns
    return columns.images is not None or columns.videos is not None or columns.audios is not None


def read_media_parts(content: list[Any], attr: DatasetAttr) -> list[Any]:
    """Turn the media among OpenAI content parts into parts whose files are found.

    A part that names nothing, ``{"type": "image"}``, is the marker of its kind.

    Raises:
        ConfigError: A file is missing, or media are not taken at all.
    """
    columns = {"image": attr.columns.images, "video": attr.columns.videos, "audio": attr.columns.audios}
    out: list[Any] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        # Arrow files hold every key in every part, most of them null.
        if kind in columns and columns[kind] is not None and all(part[key] is None for key in part if key != "type"):
            out.append({"type": "text", "text": markers()[kind]})
        elif isinstance(part, Mapping) and kind in _OPENAI:
            (read,) = Message.from_openai({"role": "user", "content": [part]}).parts
            if attr.media_dir is None:
                raise ConfigError(refusal(read.type))
            out.append({"type": read.type, read.type: locate(read.value, attr, f"content part {kind!r}")})
        else:
            out.append(part)
    return out


_OPENAI = ("image", "video", "audio", "image_url", "video_url", "audio_url", "input_audio")


def refusal(kind: str) -> str:
    """Why a row with media is not taken: training without them would be silently wrong."""
    return f"the row has {kind}, and only text is taken: this model, or this command, takes no images, videos or audio"


def locate(value: Any, attr: DatasetAttr, where: str) -> Any:
    """Return a medium with the paths in it resolved against ``attr.media_dir``; lists of frames too.

    Raises:
        ConfigError: A file is missing.
    """
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [locate(frame, attr, where) for frame in value]
    if isinstance(value, Mapping) and value.get("bytes") is None and isinstance(value.get("path"), str):
        value = value["path"]
    if not isinstance(value, str):
        return value
    if value.startswith("data:"):
        try:
            return read_data_url(value)
        except MediaError as error:
            raise ConfigError(f"{where}: {error}") from None
    if value.startswith(("http://", "https://")):
        return _downloaded(value, where)
    path = os.path.join(attr.media_dir or "", os.path.expanduser(value))
    if "\0" in path or not os.path.isfile(path):
        raise ConfigError(f"{where}: no such file: {path[:300]!r}; relative paths begin at media_dir")
    return path


def _downloaded(url: str, where: str) -> bytes:
    """What stands at an address, if its host is one that the user named."""
    policy = RemotePolicy(allowed_hosts(os.environ), max_bytes=_LARGEST_DOWNLOAD, seconds=_DOWNLOAD_SECONDS)
    if not policy.hosts:
        raise ConfigError(f"{where}: {url[:300]!r} is an address; name its host in SAFE_MEDIA_HOSTS, or give a file")
    try:
        return fetch(url, policy)
    except RefusedUrlError as error:
        raise ConfigError(f"{where}: {url[:300]!r}: {error}") from None


def _listed(row: Row, column: str) -> list[Any]:
    """The media in a column: a list, JSON text of one, or one alone."""
    value = row.get(column)
    if value is None or value == "":
        return []
    if isinstance(value, str) and value.startswith("["):
        value = parse_json(value, f"field {column!r}")
    return value if isinstance(value, list) else [value]


def _place(messages: Sequence[Message], found: dict[str, list[Any]], named: dict[str, str]) -> tuple[Message, ...]:
    kinds = {marker: kind for kind, marker in markers().items() if kind in found}
    pattern = re.compile("|".join(f"({re.escape(marker)})" for marker in kinds))
    used = dict.fromkeys(found, 0)

    def parts(text: str) -> list[Part]:
        out: list[Part] = []
        for piece in pattern.split(text):
            kind = kinds.get(piece)
            if kind is not None:
                number = used[kind]
                used[kind] += 1
                out.append(Part(cast(PartType, kind), found[kind][number] if number < len(found[kind]) else None))
            elif piece:
                out.append(Part("text", piece))
        return out

    placed = tuple(
        replace(
            message,
            parts=tuple(
                new for part in message.parts for new in (parts(part.value) if part.type == "text" else [part])
            ),
        )
        for message in messages
    )
    for kind, count in used.items():
        if count != len(found[kind]):
            raise ConfigError(
                f"field {named[kind]!r} holds {len(found[kind])} of kind {kind}, but the text has {count} markers "
                f"{markers()[kind]}"
            )
    return placed
