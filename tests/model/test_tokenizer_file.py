# SPDX-License-Identifier: Apache-2.0
"""A tokenizer gives the tokens of its ``tokenizer.json``, whatever class transformers makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model import embeddings, load_tokenizer
from llamafactory.model.tokenizer_file import as_in_file, folder_for_engines, replaced_by

_TEXT = "Hello  World 12345\n\n it's 你好 été <mark>x<end> ﬁ Straße"


def _folder(path: Path, model_type: str, tokenizer: Tokenizer, **settings: Any) -> Path:
    path.mkdir()
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>"} | settings))
    return path


def _tokenizer(normalizer: Any, splitting: Any) -> Tokenizer:
    made = Tokenizer(models.BPE())
    if normalizer is not None:
        made.normalizer = normalizer
    made.pre_tokenizer, made.decoder = splitting, decoders.ByteLevel()
    made.train_from_iterator(
        [_TEXT, "hello world 12 345 it was"] * 9,
        trainers.BpeTrainer(
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<end>", "<mark>"],
            show_progress=False,
        ),
    )
    return made


_DIGITS = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
)
_WORDS = pre_tokenizers.Sequence(
    [pre_tokenizers.Split(Regex(r"\w+|\s+|[^\w\s]"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
)


@pytest.mark.parametrize(
    ("model_type", "declared"),
    [
        ("qwen2", "PreTrainedTokenizerFast"),
        ("qwen2", None),
        ("llama", "GPT2Tokenizer"),
        ("llava", "PreTrainedTokenizerFast"),
        ("gemma3_text", "GemmaTokenizer"),
        ("llama", "LlamaTokenizerFast"),
        ("phi3", "LlamaTokenizer"),
        ("qwen3", "Qwen2Tokenizer"),
    ],
)
@pytest.mark.parametrize("splitting", [_DIGITS, _WORDS], ids=["digits", "words"])
def test_tokens_are_those_of_the_file(model_type, declared, splitting, tmp_path):
    written = _tokenizer(normalizers.Lowercase(), splitting)
    settings = {} if declared is None else {"tokenizer_class": declared}
    folder = _folder(tmp_path / "model", model_type, written, **settings)
    for place in (folder, tmp_path / "saved"):
        loaded = load_tokenizer(ModelArguments(model_name_or_path=str(place)))
        ids = loaded(_TEXT, add_special_tokens=False)["input_ids"]
        assert ids == written.encode(_TEXT, add_special_tokens=False).ids
        assert loaded.decode(ids) == written.decode(ids, skip_special_tokens=False)
        assert loaded.get_vocab() == written.get_vocab() and loaded.eos_token == "<end>"
        loaded.save_pretrained(tmp_path / "saved")
        shutil.copy(folder / "config.json", tmp_path / "saved")
    assert Tokenizer.from_file(str(tmp_path / "saved/tokenizer.json")).encode(_TEXT).ids == written.encode(_TEXT).ids


def test_what_transformers_makes_of_it_is_wrong(tmp_path):
    """The fault that this guards against is still there; once it is not, the guard can go."""
    written = _tokenizer(normalizers.Lowercase(), _WORDS)
    folder = _folder(tmp_path / "model", "qwen2", written, tokenizer_class="PreTrainedTokenizerFast")
    made = AutoTokenizer.from_pretrained(folder)
    assert made.tokenize(_TEXT) != written.encode(_TEXT).tokens
    assert max(made.get_vocab().values()) >= written.get_vocab_size()


def test_what_tokenizer_config_asks_for_is_kept(tmp_path):
    written = _tokenizer(None, pre_tokenizers.ByteLevel(add_prefix_space=False))
    folder = _folder(
        tmp_path / "model",
        "gpt2",
        written,
        tokenizer_class="GPT2Tokenizer",
        add_prefix_space=True,
        add_bos_token=True,
        bos_token="<mark>",
        unk_token="<end>",
        additional_special_tokens=["<new>"],
    )
    official = AutoTokenizer.from_pretrained(folder)
    loaded = load_tokenizer(ModelArguments(model_name_or_path=str(folder)))
    for text in (_TEXT, "a<new>b"):
        assert loaded(text)["input_ids"] == official(text)["input_ids"]
    assert type(loaded) is type(official) and loaded.tokenize("world")[0].startswith("Ġ")


def test_the_base_of_new_tokens_is_read_alike(tmp_path):
    written = _tokenizer(None, _WORDS)
    folder = _folder(tmp_path / "model", "qwen2", written, tokenizer_class="PreTrainedTokenizerFast")
    args = ModelArguments(model_name_or_path=str(folder), add_tokens="<|endoftext|>")
    assert embeddings.new_token_ids(load_tokenizer(args), args) == [written.get_vocab_size()]


def test_other_programs_get_the_tokenizer_from_a_folder_where_it_is_not_replaced(tmp_path):
    """What engines ask transformers for: beside the model they get another one, in the folder made for them ours."""
    written = _tokenizer(normalizers.Lowercase(), _WORDS)
    folder = _folder(tmp_path / "model", "qwen2", written, tokenizer_class="PreTrainedTokenizerFast")
    loaded = load_tokenizer(ModelArguments(model_name_or_path=str(folder)))
    assert replaced_by(loaded, str(folder)) == "Qwen2Tokenizer"
    made = folder_for_engines(loaded, str(folder))
    assert AutoTokenizer.from_pretrained(made)(_TEXT)["input_ids"] == written.encode(_TEXT).ids
    plain = _folder(tmp_path / "plain", "llama", written, tokenizer_class="PreTrainedTokenizerFast")
    loaded = load_tokenizer(ModelArguments(model_name_or_path=str(plain)))
    assert replaced_by(loaded, str(plain)) is None and folder_for_engines(loaded, str(plain)) is None


def test_files_that_no_class_obeys_stop(tmp_path):
    """The config asks for what neither the class chosen nor the plain one makes of the file."""
    written = _tokenizer(None, pre_tokenizers.ByteLevel(add_prefix_space=False))
    folder = _folder(tmp_path / "model", "qwen2", written, tokenizer_class="Qwen2Tokenizer")
    loaded = AutoTokenizer.from_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"model_name_or_path: the tokenizer in .* is read in two ways: .*Qwen2T"):
        as_in_file(loaded, str(folder), str(other), {})
