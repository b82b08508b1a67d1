# SPDX-License-Identifier: Apache-2.0
"""Advice on sampling that cannot be written again is mended, or refused in one line."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from llamafactory.extras.errors import ConfigError
from llamafactory.model.generation_config import make_savable, sampling_advice


@pytest.mark.parametrize(
    "values",
    [{"temperature": 0.6}, {"top_p": 0.9}, {"top_k": 20}, {"length_penalty": 2.0}, {"early_stopping": True}, {}],
)
def test_advice_is_saved(values, tmp_path):
    config = GenerationConfig(**values)
    config.pad_token_id = 0  # as the trainer changes it
    make_savable(config)
    config.save_pretrained(tmp_path)
    again = GenerationConfig.from_pretrained(tmp_path)
    assert bool(again.do_sample) == bool(values.keys() & {"temperature", "top_p", "top_k"})


def test_what_cannot_be_saved_is_refused():
    config = GenerationConfig()
    config.max_new_tokens = -1
    with pytest.raises(ConfigError, match="max_new_tokens"):
        make_savable(config)


def test_advice_to_sample_is_whole(tmp_path):
    """Without top_k transformers takes 50 and vLLM all tokens: what transformers does with the base is written down."""
    config = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
    make_savable(config)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert {name: written[name] for name in ("do_sample", "temperature", "top_p", "top_k")} == {
        "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50,
    }  # fmt: skip
    assert sampling_advice(config) == "temperature 0.6, top_k 50, top_p 0.9"


def test_no_advice_stays_none(tmp_path):
    config = GenerationConfig(eos_token_id=2)
    make_savable(config)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert not written.keys() & {"do_sample", "temperature", "top_p", "top_k"}
    assert sampling_advice(config).startswith("no advice")


@pytest.mark.parametrize(
    ("values", "sampled", "top_k"),
    [
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9}, False, None),
        ({"do_sample": False, "temperature": 0.0}, False, None),
        ({"temperature": 0.0}, False, None),
        ({"do_sample": True, "temperature": 0.0}, False, None),
        ({"top_k": -1, "top_p": 0.9}, True, 0),  # as vLLM writes all tokens
        ({"do_sample": True}, True, 50),
    ],
)
def test_greedy_stays_greedy_and_what_is_written_can_generate(values, sampled, top_k, tmp_path, tiny_llama):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.generation_config = GenerationConfig.from_dict(values)
    make_savable(model.generation_config)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (bool(again.generation_config.do_sample), again.generation_config.top_k) == (sampled, top_k)
    answers = {tuple(again.generate(torch.tensor([[5, 6]]), max_new_tokens=8)[0].tolist()) for _ in range(4)}
    assert (len(answers) == 1) == (not sampled)


def test_advice_beside_sampling_is_said():
    config = GenerationConfig(repetition_penalty=1.1)
    make_savable(config)
    assert sampling_advice(config) == "repetition_penalty 1.1"
