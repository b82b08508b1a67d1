# SPDX-License-Identifier: Apache-2.0
"""Tokens added, pad token chosen, chat template kept, new embedding rows made."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model import embeddings, load_tokenizer


def arguments(path: Path, **keys) -> ModelArguments:
    return ModelArguments(model_name_or_path=str(path), **keys)


def test_tokens_are_added_once_and_the_template_stays(tiny_llama):
    base = AutoTokenizer.from_pretrained(tiny_llama)
    args = arguments(tiny_llama, add_tokens="wombat, quokka", add_special_tokens="<tool>,<|im_end|>")
    tokenizer = load_tokenizer(args)
    assert len(tokenizer) == len(base) + 3  # <|im_end|> was there
    assert tokenizer.chat_template == base.chat_template
    assert tokenizer.tokenize("a<tool>wombat")[1:] == ["<tool>", "wombat"]
    ids = tokenizer("<tool>wombat")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "wombat"
    assert embeddings.new_token_ids(tokenizer, args) == [len(base), len(base) + 1, len(base) + 2]


def test_special_tokens_can_be_read_as_text(tiny_llama):
    text = "<|im_end|>"
    assert len(load_tokenizer(arguments(tiny_llama))(text)["input_ids"]) == 1
    assert len(load_tokenizer(arguments(tiny_llama, split_special_tokens=True))(text)["input_ids"]) > 1


def test_pad_token(tiny_llama, tmp_path):
    assert load_tokenizer(arguments(tiny_llama)).pad_token == "<|endoftext|>"
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(arguments(folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_an_adapter_brings_its_tokenizer(tiny_llama, tmp_path):
    load_tokenizer(arguments(tiny_llama, add_tokens="wombat")).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    tokenizer = load_tokenizer(arguments(tiny_llama, adapter_name_or_path=str(tmp_path)))
    assert "wombat" in tokenizer.get_vocab()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("how", ["noise_init", "desc_init", "desc_init_w_noise"])
def test_new_rows(how, tied, make_tiny_model, tmp_path):
    folder = make_tiny_model(tie_word_embeddings=tied)
    descriptions = tmp_path / "tokens.yaml"
    descriptions.write_text("<river>: rivers of the world\n<star>: stars\n")
    args = arguments(folder, new_special_tokens_config=str(descriptions), init_special_tokens=how)
    tokenizer = load_tokenizer(args)
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = [x.weight.detach().clone() for x in (model.get_input_embeddings(), model.get_output_embeddings())]
    new = embeddings.fit_to_tokenizer(model, tokenizer, args)
    assert new == tokenizer.convert_tokens_to_ids(["<river>", "<star>"]) and new[0] == len(before[0])
    for old, layer in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        assert torch.equal(layer.weight[: len(old)], old)
        assert layer.weight.shape[0] % 64 == 0 and layer.weight.shape[0] >= len(tokenizer)
        mean, spread = old.mean(0), old.std(0)
        if how != "noise_init":
            mean = old[tokenizer("rivers of the world")["input_ids"]].mean(0)
        away = ((layer.weight[new[0]] - mean).abs() / spread).max()
        assert away < 1e-5 if how == "desc_init" else 0 < away < 0.5
    again = AutoModelForCausalLM.from_pretrained(folder)
    embeddings.fit_to_tokenizer(again, tokenizer, args)
    assert torch.equal(again.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_a_spare_row_of_the_embedding_is_used_first(make_tiny_model):
    folder = make_tiny_model(vocab_size=512)
    args = arguments(folder, add_tokens="wombat")
    tokenizer = load_tokenizer(args)
    model = AutoModelForCausalLM.from_pretrained(folder)
    old = model.get_input_embeddings().weight.detach().clone()
    (new,) = embeddings.fit_to_tokenizer(model, tokenizer, args)
    weight = model.get_input_embeddings().weight
    assert weight.shape == old.shape
    assert [row for row in range(512) if not torch.equal(weight[row], old[row])] == [new]


def test_what_is_said(tiny_llama, make_tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="model_name_or_path is required"):
        load_tokenizer(ModelArguments())
    with pytest.raises(ConfigError, match=r"new_special_tokens_config: .* does not exist"):
        load_tokenizer(arguments(tiny_llama, new_special_tokens_config=str(tmp_path / "no.yaml")))
    for text in ("- a\n- b\n", "<a>: [\n", "<a>: 3\n", ""):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"new_special_tokens_config: .*(must map each token|is not YAML)"):
            load_tokenizer(arguments(tiny_llama, new_special_tokens_config=str(tmp_path / "odd.yaml")))
    (tmp_path / "bare").mkdir()
    shutil.copy(tiny_llama / "config.json", tmp_path / "bare")
    with pytest.raises(ConfigError, match="no tokenizer could be loaded"):
        load_tokenizer(arguments(tmp_path / "bare"))

    small = make_tiny_model(vocab_size=128)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(small), load_tokenizer(arguments(small))
    with pytest.raises(ConfigError, match="set resize_vocab: true"):
        embeddings.fit_to_tokenizer(model, tokenizer, arguments(small))
    embeddings.fit_to_tokenizer(model, tokenizer, arguments(small, resize_vocab=True))
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    described = arguments(tiny_llama, add_tokens="wombat", init_special_tokens="desc_init")
    with pytest.raises(ConfigError, match="desc_init needs new_special_tokens_config"):
        embeddings.fit_to_tokenizer(
            AutoModelForCausalLM.from_pretrained(tiny_llama), load_tokenizer(described), described
        )


def test_only_placeholders_may_lack_a_row(make_tiny_model):
    """Gemma 3's text models have one row less than their tokenizer has tokens: none for what stands for an image."""
    folder = make_tiny_model()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), load_tokenizer(arguments(folder))
    rows = model.get_input_embeddings().weight.shape[0]
    fill = [f"<x{number}>" for number in range(rows - max(tokenizer.get_vocab().values()) - 1)]
    tokenizer.add_tokens(fill)
    assert max(tokenizer.get_vocab().values()) + 1 == rows
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    assert embeddings.fit_to_tokenizer(model, tokenizer, arguments(folder)) == []
    assert model.get_input_embeddings().weight.shape[0] == rows
    tokenizer.add_tokens(["wombat"])
    with pytest.raises(ConfigError, match=r"set resize_vocab: true to grow it \(wombat"):
        embeddings.fit_to_tokenizer(model, tokenizer, arguments(folder))
