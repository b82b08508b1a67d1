# SPDX-License-Identifier: Apache-2.0
"""A tokenizer as its ``tokenizer.json`` describes it, whatever class transformers makes of it.

Many classes of transformers 5 build normaliser and pre-tokenizer anew and take only the vocabulary from the file, and
beside some model types (``qwen2``, ``llava``, ...) the class that the file names is replaced by another. Other ids then
stand for the same text, without a word, and the first save writes it down for good.
"""

from __future__ import annotations

import atexit
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..extras.errors import ConfigError
from ..extras.logging import get_logger

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

logger = get_logger(__name__)

_PROBES = (
    "The year's 1234567 prices: 3.14€, they'll see!  Two  spaces,   three",
    " leading space\n\nand\r\nlines\t\ttabs\n \n  end \n",
    "été Ünïcode CamelCaseWORD under_score e\u0301 \ufb01ne Å ½ ＡＢＣ",
    "你好，世界！這是測試。こんにちは世界 안녕하세요",
    "Привет, мир! مرحبا بالعالم ١٢٣ नमस्ते दुनिया สวัสดี",
    "def f(x):\n    return x**2  # 0xFF == 255\n😀👍🏽🇫🇷\u200b\u00a0\u3000",
)
_PARTS = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_KEY = re.compile(r'\s*[{,]\s*"(\w+)"\s*:\s*')


class _Behaviour(NamedTuple):
    ids: list[list[int]]
    with_ends: list[int] | None
    texts: list[str]
    added: dict[str, int]


def as_in_file(
    loaded: PreTrainedTokenizerBase, folder: str, file: str | None, options: dict[str, Any]
) -> PreTrainedTokenizerBase:
    """Return the tokenizer if it does what its file says, else one of the plain class, which does.

    Args:
        loaded: What ``AutoTokenizer`` gave.
        folder: Where it came from, a folder or a hub name.
        file: Its ``tokenizer.json``, if there is one.
        options: Keyword arguments of ``from_pretrained``.

    Raises:
        ConfigError: No class of transformers does what the file says.
    """
    from transformers import PreTrainedTokenizerFast

    kind = type(loaded)
    rebuilt = issubclass(kind, PreTrainedTokenizerFast) and any(
        "__init__" in part.__dict__ for part in kind.__mro__[: kind.__mro__.index(PreTrainedTokenizerFast)]
    )
    if file is None or not rebuilt or not kind.__module__.startswith("transformers."):
        return loaded
    settings = loaded.init_kwargs
    content = _read(Path(file))
    options_differ = _options_differ(content["model"], loaded)
    reference = _reference(content, file, loaded, settings.get("add_prefix_space"))
    probes = [*_PROBES, *(f"a {token} b{token}" for token in reference.get_added_tokens_decoder().values())]
    ends = not {"add_bos_token", "add_eos_token"} & {*settings}  # these are obeyed, whatever the file says
    wanted = _behaviour(reference, probes, ends)
    got = None if options_differ else _behaviour(loaded.backend_tokenizer, probes, ends)
    if got == wanted:
        return loaded
    plain = PreTrainedTokenizerFast.from_pretrained(folder, **options)
    found = _behaviour(plain.backend_tokenizer, probes, ends)
    if got is not None and (found == got or (got.ids == wanted.ids and got.added == found.added)):
        # tokenizer_config.json asks for the difference
        return loaded
    if found.ids != wanted.ids and (got is None or got.ids != found.ids):
        raise ConfigError(
            f"model_name_or_path: the tokenizer in '{folder}' is read in two ways: transformers makes it a "
            f"{kind.__name__}, which does not do what tokenizer.json says, nor does what its tokenizer_config.json adds"
        )
    for name in _NAMED:
        token = getattr(loaded, name)
        if getattr(plain, name) is None and token is not None and reference.token_to_id(token) is not None:
            setattr(plain, name, token)
    logger.warning_once(
        f"The tokenizer in '{folder}' is used as its tokenizer.json says; the class transformers chooses for it, "
        f"{kind.__name__}, gives other tokens"
    )
    return plain


def replaced_by(tokenizer: PreTrainedTokenizerBase, folder: str, **options: Any) -> str | None:
    """The class that transformers puts in place of ours when it reads a model's folder; ``None``: it takes ours.

    Args:
        tokenizer: As it was opened here.
        folder: Of the model, or its hub name; its ``config.json`` decides.
        options: Keyword arguments of ``from_pretrained``.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if type(tokenizer) is not PreTrainedTokenizerFast:
        return None
    kind = type(AutoTokenizer.from_pretrained(folder, **options))
    return None if kind is PreTrainedTokenizerFast else kind.__name__


def folder_for_engines(tokenizer: PreTrainedTokenizerBase, model: str, **options: Any) -> str | None:
    """A folder from which other programs read this tokenizer as it is, where they would not beside the model.

    Without a ``config.json`` beside it transformers takes the plain class. The folder lives as long as this process.
    """
    if replaced_by(tokenizer, model, **options) is None:
        return None
    folder = tempfile.mkdtemp(prefix="llamafactory-tokenizer-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    tokenizer.save_pretrained(folder)
    return folder


def _behaviour(tokenizer: Tokenizer, probes: list[str], ends: bool) -> _Behaviour:
    """What it makes of the probes; state of single calls (padding, truncation) is none of it."""
    padding, truncation, split = tokenizer.padding, tokenizer.truncation, tokenizer.encode_special_tokens
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = False
    ids = [made.ids for made in tokenizer.encode_batch(probes, add_special_tokens=False)]
    with_ends = tokenizer.encode(_PROBES[0]).ids if ends else None
    texts = tokenizer.decode_batch(ids[: len(_PROBES)], skip_special_tokens=False)
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    if padding is not None:
        tokenizer.enable_padding(**padding)
    if truncation is not None:
        tokenizer.enable_truncation(**truncation)
    tokenizer.encode_special_tokens = split
    return _Behaviour(ids, with_ends, texts, added)


def _reference(content: dict[str, Any], file: str, loaded: Any, add_prefix_space: bool | None) -> Tokenizer:
    """What the file describes, around the vocabulary that was loaded from it: to read that again takes a second."""
    from tokenizers import AddedToken, Tokenizer

    if content["model"].get("type") != "BPE" or _options_differ(content["model"], loaded):
        return Tokenizer.from_file(file)
    parts = {name: content.get(name) for name in _PARTS[1:]}
    if add_prefix_space is not None:
        parts = {name: _with_prefix(part, add_prefix_space) for name, part in parts.items()}
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    made = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **parts, "model": empty}))
    reference = Tokenizer(loaded.backend_tokenizer.model)
    for name in _PARTS[1:]:
        if getattr(made, name) is not None:
            setattr(reference, name, getattr(made, name))
    tokens = [{key: value for key, value in token.items() if key != "id"} for token in content["added_tokens"]]
    reference.add_tokens([AddedToken(**token) for token in tokens])  # at once: each call reads all of them again
    return reference


def _options_differ(written: dict[str, Any], loaded: Any) -> bool:
    """Whether the loaded model merges in another way than the file says, as far as that can be told apart."""
    model = loaded.backend_tokenizer.model
    if type(model).__name__ != "BPE" or written.get("type") != "BPE":
        return type(model).__name__ != written.get("type", type(model).__name__)
    if model.unk_token is not None and model.token_to_id(model.unk_token) is None:
        return True  # such a model fails
    names = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    return any((written.get(name) or None) != (getattr(model, name) or None) for name in names)


def _with_prefix(part: Any, wanted: bool) -> Any:
    """``add_prefix_space`` of tokenizer_config.json, put where the file has its own."""
    if isinstance(part, list):
        return [_with_prefix(one, wanted) for one in part]
    if not isinstance(part, dict):
        return part
    part = {name: _with_prefix(value, wanted) for name, value in part.items()}
    if part.get("type") == "ByteLevel":
        part["add_prefix_space"] = wanted
    return part


def _read(file: Path) -> dict[str, Any]:
    """Everything of a ``tokenizer.json`` but its vocabulary, which is nearly all of it and stands last."""
    text = file.read_text(encoding="utf-8")
    content, end = _members(text, 0, "model")
    if set(_PARTS) <= set(content) and (opened := re.compile(r"\s*").match(text, end)) is not None:
        content["model"], _ = _members(text, opened.end(), "vocab")
        if "type" in content["model"]:
            return content
    whole: dict[str, Any] = json.loads(text)
    return whole


def _members(text: str, start: int, last: str) -> tuple[dict[str, Any], int]:
    """The members of a JSON object that stand before one, and where the value of that one begins."""
    decoder, found = json.JSONDecoder(), {}
    while (key := _KEY.match(text, start)) is not None and key[1] != last:
        found[key[1]], start = decoder.raw_decode(text, key.end())
    return found, start if key is None else key.end()
