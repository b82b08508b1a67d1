# SPDX-License-Identifier: Apache-2.0
"""The tokenizer: loaded, given the new tokens the user wants, and a pad token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError, in_one_line
from ..extras.files import read_text
from ..extras.logging import get_logger
from ..hparams.field import split_list
from ..hparams.model_args import ModelArguments
from .paths import resolve_adapter_path, resolve_model_path
from .tokenizer_file import as_in_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)


def load_tokenizer(args: ModelArguments) -> PreTrainedTokenizerBase:
    """Load the tokenizer, add the new tokens and make sure that there is a pad token.

    An adapter that was saved with its tokenizer brings it along, so that tokens (and the chat template) it was
    trained with are there again without being named a second time.

    Args:
        args: ``model_name_or_path``, ``adapter_name_or_path``, ``add_tokens`` and their neighbours.

    Returns:
        The tokenizer; its chat template is as it was saved.

    Raises:
        ConfigError: No model or tokenizer at the path, or a token list that cannot be read.
    """
    source = _tokenizer_source(args)
    tokenizer = open_tokenizer(
        source,
        use_fast=args.use_fast_tokenizer,
        split_special_tokens=args.split_special_tokens,
        padding_side="right",
        **hub_options(args),
    )
    ordinary, special = tokens_to_add(args)
    added = tokenizer.add_tokens(ordinary) if ordinary else 0
    if special:
        added += tokenizer.add_special_tokens({"extra_special_tokens": special}, replace_extra_special_tokens=False)
    if ordinary or special:
        logger.info_rank0("%d of %d listed tokens are new to the vocabulary", added, len(ordinary) + len(special))
    _ensure_pad_token(tokenizer, source)
    return tokenizer


def open_tokenizer(source: str, **options: Any) -> PreTrainedTokenizerBase:
    """Open a tokenizer that does what its files say; the one place where transformers is asked for one.

    Args:
        source: Folder or hub name.
        options: Keyword arguments of ``from_pretrained``.

    Raises:
        ConfigError: There is none, or its files contradict each other.
    """
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    files = "tokenizer.json, or else vocab.json and merges.txt, or tokenizer.model; tokenizer_config.json"
    with in_one_line(f"model_name_or_path: no tokenizer could be loaded from '{source}' ({files})"):
        loaded = AutoTokenizer.from_pretrained(source, **options)
        place = {key: value for key, value in options.items() if key in ("revision", "cache_dir", "token")}
        file = cached_file(
            source,
            "tokenizer.json",
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            **place,
        )
        _check_words(loaded)
        plain = {key: value for key, value in options.items() if key not in ("use_fast", "trust_remote_code")}
        return as_in_file(loaded, source, file, plain)


def _check_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Without the file of its words a tokenizer is made all the same, of its special tokens alone."""
    special = tokenizer.added_tokens_encoder
    if tokenizer.vocab_size <= len(special) and not tokenizer.get_vocab().keys() - special.keys():
        raise ConfigError(f"it has no words: {' or '.join(tokenizer.vocab_files_names.values())} is missing or damaged")


def tokens_to_add(args: ModelArguments) -> tuple[list[str], list[str]]:
    """The tokens the user wants added: ``(ordinary, special)``.

    ``new_special_tokens_config`` wins over ``add_special_tokens``.
    """
    ordinary = split_list(args.add_tokens)
    special = list(token_descriptions(args)) or split_list(args.add_special_tokens)
    return ordinary, special


def token_descriptions(args: ModelArguments) -> dict[str, str]:
    """Read the YAML file ``new_special_tokens_config``: token → text that describes it; ``{}`` when not given."""
    if args.new_special_tokens_config is None:
        return {}
    import yaml

    path = Path(args.new_special_tokens_config).expanduser()
    text = read_text(path, "new_special_tokens_config")
    try:
        content: Any = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"new_special_tokens_config: '{path}' is not YAML: {reason}") from error
    if (
        not isinstance(content, dict)
        or not content
        or not all(isinstance(item, str) and item for pair in content.items() for item in pair)
    ):
        raise ConfigError(f"new_special_tokens_config: '{path}' must map each token to a text that describes it")
    return content


def hub_options(args: ModelArguments) -> dict[str, Any]:
    """Keyword arguments that every ``from_pretrained`` of the base model takes."""
    return {
        "revision": args.model_revision,
        "cache_dir": args.cache_dir,
        "token": args.hf_hub_token,
        "trust_remote_code": args.trust_remote_code,
    }


def adapter_names(args: ModelArguments) -> list[str]:
    """``adapter_name_or_path`` as a list, first to last."""
    return split_list(args.adapter_name_or_path)


def _tokenizer_source(args: ModelArguments) -> str:
    if not args.model_name_or_path:
        raise ConfigError(
            "model_name_or_path is required: a folder, a hub name, a .gguf file or pkg://PACKAGE/FILE.gguf"
        )
    base = resolve_model_path(args.model_name_or_path, args)
    for name in reversed(adapter_names(args)):
        folder = resolve_adapter_path(name, args)
        if (Path(folder) / "tokenizer_config.json").is_file():
            logger.info_rank0("Tokenizer taken from the adapter %s", folder)
            return folder
    return base


def _ensure_pad_token(tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    if tokenizer.pad_token_id is not None:
        return
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            f"model_name_or_path: the tokenizer_config.json of '{source}' names neither a pad nor an eos token"
        )
    # Labels mark untrained tokens themselves (-100), so this eos is still trained where it ends an answer.
    tokenizer.pad_token = tokenizer.eos_token
    logger.info_once("No pad token: batches are padded with the eos token %r, which stays trained", tokenizer.eos_token)
