# SPDX-License-Identifier: Apache-2.0
"""Where a model lies: a folder, a hub name, a ``.gguf`` file, or a file inside an installed package."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..extras.environment import is_env_enabled
from ..extras.errors import ConfigError, first_line, in_one_line
from ..extras.files import read_json
from ..extras.hub import look_for_hub, look_for_other_hub
from ..hparams.model_args import ModelArguments
from .adapter_config import read_adapter_values
from .folders import check_folder

_PACKAGE_SCHEME = "pkg://"


def resolve_model_path(name_or_path: str, args: ModelArguments) -> str:
    """Turn what the user wrote into something transformers can load.

    Args:
        name_or_path: A local folder, a hub name, a ``.gguf`` file, or ``pkg://PACKAGE/FILE.gguf``.
        args: Cache folder, revision and hub tokens are read from here.

    Returns:
        A local folder, or a Hugging Face hub id that has been seen to exist (or to be cached).

    Raises:
        ConfigError: Nothing is there, or it is not a model.
    """
    if name_or_path.startswith(_PACKAGE_SCHEME):
        name_or_path = _file_in_package(name_or_path)
    if name_or_path.endswith(".gguf"):
        from .gguf import convert_gguf

        return str(convert_gguf(Path(name_or_path).expanduser(), args.cache_dir))
    folder = Path(name_or_path).expanduser()
    if folder.exists() or name_or_path.startswith((".", "/", "~")):
        return _local_folder(folder)
    return _from_hub(name_or_path, args, "model_name_or_path", "config.json")


def resolve_adapter_path(name_or_path: str, args: ModelArguments, key: str = "adapter_name_or_path") -> str:
    """Find the folder of one adapter, local or on the hub, with ``adapter_folder`` applied.

    Raises:
        ConfigError: The folder does not exist, or its adapter is of a kind that cannot be used.
    """
    folder = Path(name_or_path).expanduser()
    if not folder.exists() and not name_or_path.startswith((".", "/", "~")):
        inner = f"{args.adapter_folder}/adapter_config.json" if args.adapter_folder else "adapter_config.json"
        folder = Path(_download_adapter(name_or_path, args, inner))
    if args.adapter_folder:
        folder = folder / args.adapter_folder
    if not (folder / "adapter_config.json").is_file():
        what = "has no adapter_config.json" if folder.is_dir() else "does not exist"
        raise ConfigError(f"{key}: '{folder}' {what}")
    check_folder(folder, key)
    read_adapter_values(folder, key)
    return str(folder)


def _local_folder(folder: Path) -> str:
    if not folder.exists():
        raise ConfigError(f"model_name_or_path: '{folder}' does not exist")
    if not folder.is_dir():
        raise ConfigError(f"model_name_or_path: '{folder}' is a file; a folder, a hub name or a .gguf file is needed")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(
            f"model_name_or_path: '{folder}' is an adapter; give it as adapter_name_or_path and its base model here"
        )
    if not (folder / "config.json").is_file():
        found = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"; it has {', '.join(found)}: name that file" if found else ""
        raise ConfigError(f"model_name_or_path: '{folder}' has no config.json{hint}")
    check_folder(folder, "model_name_or_path")
    return str(folder)


def _file_in_package(address: str) -> str:
    """``pkg://PACKAGE/FILE.gguf`` → path on disk. FILE may be a glob; it must match exactly one file."""
    package, _, pattern = address.removeprefix(_PACKAGE_SCHEME).partition("/")
    # Only top-level names: find_spec would import the parents of a dotted one.
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise ConfigError(f"model_name_or_path: '{address}': package {package!r} is not installed (pip install {name})")
    root = Path(next(iter(spec.submodule_search_locations)))
    there = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.gguf"))
    matches = [name for name in there if fnmatch.fnmatchcase(name, pattern)] if pattern else []
    if len(matches) == 1:
        return str(root / matches[0])
    trouble = f"{len(matches)} files match" if matches else "no such file"
    raise ConfigError(f"model_name_or_path: '{address}': {trouble}; the package has: {', '.join(there) or 'no .gguf'}")


def _from_hub(name: str, args: ModelArguments, key: str, filename: str) -> str:
    """Check that ``filename`` of a hub repository can be had; other hubs are downloaded whole."""
    hub, asked_by = _hub(args)
    if hub == "modelscope":
        try:
            from modelscope import snapshot_download
        except ImportError:
            raise ConfigError(f"{asked_by} needs the package modelscope: pip install modelscope") from None
        revision = "master" if args.model_revision == "main" else args.model_revision
        keys = {"revision": revision, "cache_dir": args.cache_dir, "token": args.ms_hub_token}
        return _whole_from("ms", snapshot_download, name, key, keys)
    if hub == "openmind":
        try:
            from openmind.utils.hub import snapshot_download
        except ImportError:
            raise ConfigError(f"{asked_by} needs the package openmind: pip install openmind") from None
        keys = {"revision": args.model_revision, "cache_dir": args.cache_dir, "token": args.om_hub_token}
        return _whole_from("om", snapshot_download, name, key, keys)
    _probe_hugging_face(name, args, key, filename)
    if args.trust_remote_code:
        _refuse_unpinned_code(name, args, key)
    return name


def _hub(args: ModelArguments) -> tuple[str, str]:
    """The hub that is asked, and what says so."""
    if args.hub is not None:
        return args.hub, f"hub: {args.hub}"
    for variable, hub in (("USE_MODELSCOPE_HUB", "modelscope"), ("USE_OPENMIND_HUB", "openmind")):
        if is_env_enabled(variable):
            return hub, variable
    return "huggingface", ""


def _whole_from(place: str, download: Callable[..., Any], name: str, key: str, keys: dict[str, Any]) -> str:
    """Have a hub's own library download a repository; from a hub that does not answer take the copy on this machine."""
    if not look_for_other_hub(place):
        keys["local_files_only"] = True
    with in_one_line(f"{key}: '{name}' cannot be loaded from the hub"):
        return str(download(name, **keys))


def _download_adapter(name: str, args: ModelArguments, filename: str) -> str:
    found = _from_hub(name, args, "adapter_name_or_path", filename)
    if found != name:
        return found
    from huggingface_hub import snapshot_download

    return snapshot_download(name, revision=args.model_revision, cache_dir=args.cache_dir, token=args.hf_hub_token)


def _probe_hugging_face(name: str, args: ModelArguments, key: str, filename: str) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where = f"{key}: '{name}'"
    look_for_hub()
    try:
        hf_hub_download(name, filename, revision=args.model_revision, cache_dir=args.cache_dir, token=args.hf_hub_token)
    except HFValidationError:
        raise ConfigError(f"{where} is neither a folder here nor a hub name") from None
    except GatedRepoError:
        raise ConfigError(f"{where} is gated: accept its terms on the hub and give hf_hub_token") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"{where} is not a folder here and not on the hub (or private: give hf_hub_token)") from None
    except RevisionNotFoundError:
        raise ConfigError(f"{where} has no revision '{args.model_revision}' on the hub") from None
    except LocalEntryNotFoundError:
        raise ConfigError(f"{where} is not a folder here, the hub cannot be reached, and no copy is cached") from None
    except EntryNotFoundError:
        raise ConfigError(f"{where} has no {filename} on the hub") from None
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f"{where}: the hub answered with an error: {first_line(error)}") from None


def _refuse_unpinned_code(name: str, args: ModelArguments, key: str) -> None:
    """Code of a hub repository is trusted as it was read: at one commit, not at whatever a branch holds tomorrow."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for filename in ("config.json", "tokenizer_config.json"):
        try:
            path = Path(
                hf_hub_download(
                    name, filename, revision=args.model_revision, cache_dir=args.cache_dir, token=args.hf_hub_token
                )
            )
        except (EntryNotFoundError, LocalEntryNotFoundError):
            continue
        modules = json.dumps(read_json(path, dict, key).get("auto_map") or [])
        if "--" in modules:
            raise ConfigError(
                f"{key}: '{name}' takes its code from another repository, which model_revision does not pin: "
                f"{modules}; download both into one folder"
            )
        if modules != "[]" and not re.fullmatch(r"[0-9a-f]{40}", args.model_revision):
            raise ConfigError(
                f"trust_remote_code: '{name}' has code of its own and model_revision '{args.model_revision}' can move; "
                f"read the code, then write model_revision: {path.parent.name}"
            )
