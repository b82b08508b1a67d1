# SPDX-License-Identifier: Apache-2.0
"""What a data set is and where it lies: the entries of ``dataset_info.json``, and plain paths given in their place."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from ... import plugins
from ...extras.environment import is_env_enabled
from ...extras.errors import ConfigError, first_line, first_names
from ...extras.files import read_json
from ...extras.hub import look_for_hub
from ...extras.logging import get_logger
from .registry import LISTING, public_datasets

logger = get_logger(__name__)

CONFIG_NAME = "dataset_info.json"
Place = Literal["file", "cloud", "hf", "ms", "om"]


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold each part of a row; None = the set has no such column."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    margin: str | None = None
    kto_tag: str | None = None
    reasoning: str | None = None
    label: str | None = None
    positive: str | None = None
    negative: str | None = None
    score: str | None = None


NO_COLUMNS = Columns(prompt=None, query=None, response=None, messages=None)


@dataclass(frozen=True)
class Tags:
    """Keys inside one message, and the names its roles have."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


OPENAI_TAGS = Tags("role", "content", "user", "assistant", "tool", "function_call", "system")


@dataclass(frozen=True)
class DatasetAttr:
    """One data set: where its rows lie and how they are laid out.

    Attributes:
        name: What the user called it; the ``source`` of its rows.
        place: Local file or folder, object store, or one of the hubs.
        location: Path, address or hub id.
        weight: How often the set is drawn when sets are interleaved, in any unit; None = 1 beside sets that have one.
        repeat: How often each row stands in the training data.
        listed: Columns that the user named; one of these missing in the file is an error.
        asked: The key ``columns``, for a set without an entry: ``(part, column)``.
        by_file: The layouts of single files, for a folder whose files differ.
        media_dir: Folder of relative image, video and audio paths; ``None`` = rows with media are refused.
    """

    name: str
    place: Place
    location: str
    formatting: str = "alpaca"
    ranking: bool = False
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    weight: float | None = None
    repeat: int = 1
    columns: Columns = field(default_factory=Columns)
    tags: Tags = field(default_factory=Tags)
    listed: frozenset[str] = frozenset()
    asked: tuple[tuple[str, str], ...] = ()
    sniffed: bool = False
    media_dir: str | None = None
    by_file: Mapping[str, DatasetAttr] = field(default_factory=dict)

    @property
    def is_spelled_out(self) -> bool:
        """Whether the user named the columns: what is not named was left out on purpose."""
        return bool(self.listed or self.asked)


_MEDIA_DEMO = (
    "its rows and files belong to LLaMA-Factory's repository and are not shipped here; put them and their entry beside "
    "your dataset_info.json (docs/data.md has the layout)"
)
# Names of LLaMA-Factory's own list that no hub has -> why they are not here.
NOT_SHIPPED: dict[str, str] = {
    "mllm_demo": _MEDIA_DEMO,
    "mllm_audio_demo": _MEDIA_DEMO,
    "mllm_video_demo": _MEDIA_DEMO,
    "mllm_video_audio_demo": _MEDIA_DEMO,
    "sgsc_b2b_entities": "no public copy of its rows is known; give your own file by its path",
    "wiki_demo": "its text belongs to LLaMA-Factory's repository; pt_demo of this project has its layout (stage pt)",
    "c4_demo": "its text belongs to LLaMA-Factory's repository; pt_demo of this project has its layout (stage pt)",
}

_PLACES: dict[str, Place] = {
    "file_name": "file", "cloud_file_name": "cloud", "hf_hub_url": "hf", "ms_hub_url": "ms", "om_hub_url": "om",
}  # fmt: skip
_OPTIONS: dict[str, type[bool] | type[str] | type[int] | type[float]] = {
    "ranking": bool,
    "subset": str,
    "split": str,
    "folder": str,
    "num_samples": int,
    "weight": float,
    "repeat": int,
}
_KEYS = [*_PLACES, "script_url", "file_sha1", "formatting", *_OPTIONS, "columns", "tags"]


def find_media_datasets(
    names: list[str],
    dataset_dir: str | Mapping[str, Any],
    media_dir: str | None,
    columns: str | Mapping[str, Any] | None = None,
) -> list[DatasetAttr]:
    """Look up data sets whose rows may hold images, videos and audio.

    Args:
        names: As for :func:`find_datasets`.
        dataset_dir: As for :func:`find_datasets`.
        media_dir: Folder of relative paths; ``None`` = ``dataset_dir``, or for a data set given as a file its folder.
    """
    base = dataset_dir if isinstance(dataset_dir, str) and os.path.isdir(dataset_dir) else "."

    def folder(attr: DatasetAttr) -> str:
        if media_dir is not None or attr.place != "file" or not attr.sniffed:
            return os.path.expanduser(media_dir or base)
        return attr.location if os.path.isdir(attr.location) else os.path.dirname(attr.location)

    return [replace(attr, media_dir=folder(attr)) for attr in find_datasets(names, dataset_dir, columns)]


def find_datasets(
    names: list[str], dataset_dir: str | Mapping[str, Any], columns: str | Mapping[str, Any] | None = None
) -> list[DatasetAttr]:
    """Look up data sets by name, or take plain paths as they are. Rows with media are refused.

    Args:
        names: Names in ``dataset_info.json``, else in our list of public sets, or paths of files or folders.
        dataset_dir: Folder that holds ``dataset_info.json``; ``ONLINE`` (names are hub ids); ``REMOTE:<hub data set>``
            (the file is taken from there); or the entries themselves as a mapping.
        columns: Columns of the sets that have no entry: ``prompt=Frage,response=Antwort``, or a mapping.

    Returns:
        One description a name, in order; plain paths have ``formatting="auto"`` until their rows are sniffed.

    Raises:
        ConfigError: Unknown name, missing or broken ``dataset_info.json``, a wrong entry.
    """
    asked = read_columns(columns)
    if dataset_dir == "ONLINE":
        return [DatasetAttr(name, hub_in_use(), name, formatting="auto", sniffed=True, asked=asked) for name in names]
    root = "." if isinstance(dataset_dir, Mapping) else dataset_dir
    plain = {name: path for name in names if (path := _plain_path(name, root))}
    listing = (
        f"{root}/{CONFIG_NAME}" if isinstance(root, str) and not isinstance(dataset_dir, Mapping) else "dataset_dir"
    )
    entries: Mapping[str, Any] = {}
    # The listing is only read when some name needs it, so that `dataset: ./my.jsonl` works without one.
    if isinstance(dataset_dir, Mapping):
        entries = dataset_dir
    elif any(name not in plain or "/" not in name for name in names):
        entries = _read_listing(dataset_dir, optional=all(name in plain or name in public_datasets() for name in names))
    found = []
    for name in names:
        if name in entries:
            found.append(parse_entry(name, entries[name], listing, root))
        elif name in plain:
            place: Place = "cloud" if "://" in name else "file"
            found.append(DatasetAttr(name, place, plain[name], formatting="auto", sniffed=True, asked=asked))
        elif name in public_datasets():
            found.append(parse_entry(name, public_datasets()[name], str(LISTING), root))
        else:
            if name in NOT_SHIPPED:
                raise ConfigError(f"dataset: {name!r} is not in {listing}; {NOT_SHIPPED[name]}")
            known = [*entries, *public_datasets()]
            raise ConfigError(f"dataset: {name!r} is neither in {listing} nor a file; {_nearest(name, known)}")
    return found


def check_columns(given: str | Mapping[str, Any] | None, sets: list[DatasetAttr]) -> None:
    """Refuse the key ``columns`` if every set has an entry that says its columns.

    Raises:
        ConfigError: It would have no effect.
    """
    if given and sets and not any(attr.sniffed for attr in sets):
        raise ConfigError(
            f"columns: only for sets that are files; {sets[0].name!r} has an entry, name its columns there"
        )


def read_columns(given: str | Mapping[str, Any] | None) -> tuple[tuple[str, str], ...]:
    """Read the key ``columns``: parts of a row and the columns that hold them.

    Raises:
        ConfigError: It is no such list, or names a part that rows do not have.
    """
    if not given:
        return ()
    if isinstance(given, str):
        pairs = [pair.partition("=") for pair in given.split(",")]
        if not all(equals and column.strip() for _, equals, column in pairs):
            raise ConfigError(f"columns: {given!r} is not of the form prompt=COLUMN,response=COLUMN")
        given = {part.strip(): column.strip() for part, _, column in pairs}
    columns = _override(NO_COLUMNS, given, "columns")
    return tuple((part, column) for part, column in vars(columns).items() if column is not None)


def parse_entry(name: str, entry: Any, listing: str, root: str) -> DatasetAttr:
    """Read one entry of ``dataset_info.json``.

    ``columns`` is the whole list: without it the columns have their usual names, with it those that it does not name
    do not exist. Tags that are not listed keep their defaults.
    """
    where = f"{listing}, {name!r}"
    if not isinstance(entry, Mapping):
        raise ConfigError(
            f"{where}: the entry is {type(entry).__name__}, expected an object with one of {', '.join(_PLACES)}"
        )
    for key in entry:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {_nearest(key, _KEYS)}")
    if "script_url" in entry:
        raise ConfigError(
            f"{where}: script_url is refused, data set scripts are not run; convert it to json, jsonl or parquet"
        )
    if "file_sha1" in entry:
        logger.info_once(f"{where}: file_sha1 is not compared; the file is read as it is")
    place, location = _place(entry, where, root)
    formatting = entry.get("formatting", "alpaca")
    if formatting not in plugins.names("formats"):
        raise ConfigError(f"{where}: formatting is {formatting!r}, expected {', '.join(plugins.names('formats'))}")
    options = {
        key: _option(key, kind, entry[key], where) for key, kind in _OPTIONS.items() if entry.get(key) is not None
    }
    given, tags_given = entry.get("columns"), entry.get("tags")
    if formatting != "alpaca" and isinstance(given, Mapping) and isinstance(tags_given or {}, Mapping):
        # Old files name the keys of a turn among the columns.
        moved = {f"{key}_tag": given[key] for key in ("role", "content") if given.get(key)}
        given = {key: column for key, column in given.items() if key not in ("role", "content")}
        tags_given = moved | dict(tags_given or {})
    columns = _columns(given, formatting, bool(options.get("ranking")), f"{where}, columns")
    tags = _override(OPENAI_TAGS if formatting == "openai" else Tags(), tags_given, f"{where}, tags")
    listed = frozenset(column for column in (given or {}).values() if column)
    return DatasetAttr(name, place, location, formatting, columns=columns, tags=tags, listed=listed, **options)


def _columns(given: Any, formatting: str, ranking: bool, where: str) -> Columns:
    usual = Columns(messages=None)
    if formatting != "alpaca":
        chat = {"messages": "messages", "tools": "tools"} if formatting == "openai" else {"messages": "conversations"}
        usual = replace(NO_COLUMNS, **chat)
    if not given:
        _override(usual, given, where)
        return replace(usual, chosen="chosen", rejected="rejected") if ranking else usual
    columns: Columns = _override(NO_COLUMNS, given, where)
    if formatting != "alpaca":  # there is no conversation without its turns
        columns = replace(columns, messages=columns.messages or usual.messages)
    elif not (columns.prompt or columns.query or columns.history):
        raise ConfigError(f"{where}: names no prompt; a column that it does not name is not read")
    pairs = (columns.chosen and columns.rejected) or (formatting == "alpaca" and columns.response)
    if ranking and not pairs:
        raise ConfigError(f"{where}: names no chosen and rejected, which ranking: true needs")
    return columns


def _option(key: str, kind: type, value: Any, where: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = {
        bool: isinstance(value, bool),
        str: isinstance(value, str),
        int: number and isinstance(value, int) and value >= 1,
        float: number and 0 < value < float("inf"),
    }
    expected = {bool: "true or false", str: "text", int: "a whole number of 1 or more", float: "a number above 0"}
    if not fits[kind]:
        raise ConfigError(f"{where}: {key} is {value!r}, expected {expected[kind]}")
    return value


def hub_in_use() -> Place:
    """Return the hub that ``USE_MODELSCOPE_HUB`` or ``USE_OPENMIND_HUB`` asks for, else Hugging Face."""
    hubs: dict[str, Place] = {"USE_MODELSCOPE_HUB": "ms", "USE_OPENMIND_HUB": "om"}
    for variable, place in hubs.items():
        if is_env_enabled(variable):
            return place
    return "hf"


def _place(entry: Mapping[str, Any], where: str, root: str) -> tuple[Place, str]:
    """Choose among the places an entry names: the hub in use, then any hub, then cloud, then the local file."""
    given = {place: entry[key] for key, place in _PLACES.items() if entry.get(key)}
    for value in given.values():
        if not isinstance(value, str):
            raise ConfigError(f"{where}: the place of the data is {value!r}, expected text")
    # The Hugging Face repository stands in for a set that the chosen hub does not have.
    for place in (hub_in_use(), "hf", "ms", "om", "cloud", "file"):
        if place in given:
            location = given[place]
            return place, str(Path(root, location)) if place == "file" else location
    raise ConfigError(f"{where}: no place is given; expected one of {', '.join(_PLACES)}")


def _override(base: Any, given: Any, where: str) -> Any:
    known = [item.name for item in fields(base)]
    if given is None:
        return base
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: is {type(given).__name__}, expected an object with keys of {', '.join(known)}")
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}; {_nearest(key, known)}")
        if not isinstance(value, str) and not (value is None and isinstance(base, Columns)):
            raise ConfigError(f"{where}: {key} is {value!r}, expected a name")
    return replace(base, **given)


def _plain_path(name: str, root: str) -> str | None:
    """Return the path when a data set's name is one: an address, a path as written, or one below the data folder."""
    if "://" in name:
        return name
    for path in (name, os.path.join(root, name)):
        if os.path.isfile(path) or (os.path.isdir(path) and "/" in name):
            return path
    if name.startswith(("./", "../", "/", "~")):
        expanded = os.path.expanduser(name)
        if not os.path.exists(expanded):
            raise ConfigError(f"dataset: {name}: no such file or folder (looked in {os.getcwd()})")
        return expanded
    return None


def _read_listing(dataset_dir: str, optional: bool) -> Mapping[str, Any]:
    if dataset_dir.startswith("REMOTE:"):
        from huggingface_hub import hf_hub_download

        look_for_hub()
        try:
            path = Path(hf_hub_download(dataset_dir.removeprefix("REMOTE:"), CONFIG_NAME, repo_type="dataset"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"dataset_dir: {CONFIG_NAME} of {dataset_dir} cannot be loaded: {first_line(error)}"
            ) from None
    else:
        path = Path(dataset_dir, CONFIG_NAME)
    if not path.is_file():
        if optional:
            return {}
        raise ConfigError(
            f"dataset_dir: {path} does not exist; give the folder that holds {CONFIG_NAME}, or a file as dataset"
        )
    entries: Mapping[str, Any] = read_json(path, dict, "dataset_dir")
    return entries


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {first_names(known)}"
