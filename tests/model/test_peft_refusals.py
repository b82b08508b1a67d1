# SPDX-License-Identifier: Apache-2.0
"""What PEFT's methods cannot do here is refused in one line, as soon as it shows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.model.adapters import load_adapter
from llamafactory.model.rank_schedule import RankSchedule

from .test_peft_tuners import trained, tuned

# What is asked for -> the line.
BEFORE: list[tuple[dict[str, Any], str]] = [
    ({"finetuning_type": "vera", "peft_config": {"rank": 8}}, "peft_config: vera has no field rank; did you mean r?"),
    ({"finetuning_type": "loha", "peft_config": {"r": "eight"}}, "peft_config: r: 'eight' is text, expected a number"),
    (
        {"finetuning_type": "loha", "peft_config": {"task_type": "CAUSAL_LM"}},
        "peft_config: task_type: leave it out, stage says it",
    ),
    (
        {"finetuning_type": "loha", "peft_config": {"modules_to_save": ["norm"]}},
        "peft_config: modules_to_save: leave it out, additional_target says it",
    ),
    (
        {"finetuning_type": "boft", "peft_config": {"bias": "all"}},
        "peft_config: bias: all cannot be used, biases are not trained with an adapter; leave it out",
    ),
    (
        {"finetuning_type": "adamss", "peft_config": {"use_asa": True}},
        "peft_config: use_asa: True cannot be used, its subspaces",
    ),
    ({"finetuning_type": "oft", "peft_config": {"r": 4}}, "peft_config: r: leave it out, the key oft_rank says it"),
    (
        {"finetuning_type": "oft", "oft_rank": 4, "oft_block_size": 8},
        "oft_rank: 4 beside oft_block_size: 8: one says the other, give one of them",
    ),
    (
        {"finetuning_type": "oft", "oft_block_size": 0},
        "oft_block_size: 0 needs oft_rank, the number of blocks of a layer",
    ),
    (
        {"finetuning_type": "adalora", "peft_config": {"total_step": 100}},
        "peft_config: total_step: leave it out, the run counts its own steps",
    ),
    (
        {"finetuning_type": "adalora", "peft_config": {"r": 16}},
        "peft_config: r: leave it out, the key peft_config: {init_r, target_r} says it",
    ),
    ({"finetuning_type": "adalora", "peft_config": {"init_r": 4}}, "peft_config: init_r: 4 must be above target_r: 8"),
    (
        {"finetuning_type": "adalora", "peft_config": {"beta1": 1.0}},
        "peft_config: beta1: 1.0, expected a number between 0 and 1",
    ),
    (
        {"finetuning_type": "adalora", "stage": "dpo"},
        "finetuning_type: adalora keeps its factors orthogonal in the loss of stages pt and sft",
    ),
    ({"finetuning_type": "prompt_tuning", "packing": True}, "packing: not with finetuning_type prompt_tuning"),
    ({"finetuning_type": "prefix_tuning", "neat_packing": True}, "packing: not with finetuning_type prefix_tuning"),
    (
        {"finetuning_type": "prefix_tuning", "gradient_checkpointing": True},
        "activation_checkpointing: not with finetuning_type prefix_tuning",
    ),
    (
        {"finetuning_type": "p_tuning", "adapter_name_or_path": "a"},
        "adapter_name_or_path: no run goes on with a finished p_tuning, resume its own",
    ),
    (
        {"finetuning_type": "prompt_tuning", "stage": "dpo"},
        "finetuning_type: prompt_tuning is for stage pt or sft, not dpo",
    ),
    (
        {"finetuning_type": "prefix_tuning", "stage": "kto"},
        "finetuning_type: prefix_tuning is for stage pt or sft, not kto",
    ),
    (
        {"finetuning_type": "prompt_tuning", "peft_config": {"num_virtual_tokens": 0}},
        "peft_config: num_virtual_tokens: 0, expected 1 or more",
    ),
    (
        {"finetuning_type": "prompt_tuning", "peft_config": {"prompt_tuning_init": "TEXT"}},
        "peft_config: prompt_tuning_init: TEXT and prompt_tuning_init_text belong together",
    ),
    (
        {"finetuning_type": "xlora"},
        "finetuning_type: xlora cannot be trained here: it chooses among adapters at each token",
    ),
    ({"finetuning_type": "vera", "lora_target": ""}, "lora_target: empty"),
    ({"finetuning_type": "full", "peft_config": {"r": 4}}, "peft_config: only for finetuning_type"),
]
BEFORE.append((
    {"finetuning_type": "prompt_tuning", "peft_config": {"prompt_tuning_init": "SAMPLE_VOCAB"}},
    "peft_config: prompt_tuning_init: SAMPLE_VOCAB, expected RANDOM or TEXT",
))  # fmt: skip
AFTER: list[tuple[dict[str, Any], str]] = [
    (
        {"finetuning_type": "lora", "peft_config": {"rank_pattern": {"qproj": 4}}},
        "peft_config: rank_pattern: 'qproj' matches no module of this model",
    ),
    (
        {"finetuning_type": "loha", "peft_config": {"alpha_pattern": {"^q_pro": 4}}},
        "peft_config: alpha_pattern: '^q_pro' matches no module of this model",
    ),
    (
        {"finetuning_type": "lora", "peft_config": {"exclude_modules": ["qproj"]}},
        "peft_config: exclude_modules: 'qproj' matches no module of this model",
    ),
    (
        {"finetuning_type": "oft", "oft_rank": 7},
        "oft_rank: 7 does not divide the 64 inputs of model.layers.0.self_attn.q_proj; these do: 2, 4, 8, 16, 32, 64",
    ),
    ({"finetuning_type": "oft", "oft_block_size": 24}, "oft_block_size: 24 does not divide the 64 inputs of"),
    (
        {"finetuning_type": "vera", "lora_target": "qproj"},
        "lora_target: the model has no qproj; choose from down_proj, embed_tokens, gate_proj",
    ),
    (
        {"finetuning_type": "ln_tuning", "lora_target": "q_proj"},
        "lora_target: the model has no q_proj; choose from input_layernorm, norm, post_attention_layernorm",
    ),
    (
        {"finetuning_type": "loha", "peft_config": {"target_modules": ["qproj"]}},
        "peft_config: target_modules: the model has no qproj; choose from",
    ),
    (
        {"finetuning_type": "loha", "peft_config": {"target_modules": ".*nothing"}},
        "peft_config: target_modules: '.*nothing' matches no module of this model",
    ),
    (
        {"finetuning_type": "boft", "peft_config": {"boft_block_size": 7}},
        "finetuning_type: PEFT cannot put this adapter on the model: ",
    ),
    (
        {"finetuning_type": "c3a", "peft_config": {"block_size": 48}},
        "finetuning_type: PEFT cannot put this adapter on the model: ",
    ),
    (
        {"finetuning_type": "trainable_tokens"},
        "peft_config: token_indices: missing; name the tokens to train, or add some (add_tokens)",
    ),
    (
        {"finetuning_type": "trainable_tokens", "peft_config": {"token_indices": [9999]}},
        "peft_config: token_indices: 9999 is no token",
    ),
    (
        {"finetuning_type": "trainable_tokens", "peft_config": {"token_indices": [5]}, "additional_target": "norm"},
        "additional_target: trainable_tokens trains no whole modules",
    ),
]


@pytest.mark.parametrize(("keys", "line"), BEFORE, ids=lambda part: str(part)[:60])
def test_what_the_keys_alone_show_is_refused_before_any_weight(keys: Any, line: str, train_args: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        train_args("nowhere", **keys)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("keys", "line"), AFTER, ids=lambda part: str(part)[:60])
@pytest.mark.filterwarnings("ignore")
def test_what_the_model_shows_is_refused(keys: Any, line: str, tiny_llama: Path, train_args: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        tuned(train_args(tiny_llama, **keys))
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_adalora_in_a_run_too_short_is_refused(tiny_llama: Path, train_args: Any) -> None:
    schedule = RankSchedule(
        tuned(train_args(tiny_llama, finetuning_type="adalora", peft_config={"tinit": 5, "tfinal": 5}))
    )
    with pytest.raises(ConfigError, match=r"^peft_config: tinit: 5 and tfinal: 5 leave no step of the 10 of this run"):
        schedule.on_train_begin(None, SimpleNamespace(max_steps=10), None)


def test_an_adapter_of_another_type_is_not_gone_on_with(tiny_llama: Path, train_args: Any, tmp_path: Path) -> None:
    tuned(train_args(tiny_llama, finetuning_type="vera")).save_pretrained(tmp_path / "vera")
    adapter = {"adapter_name_or_path": str(tmp_path / "vera")}
    with pytest.raises(ConfigError, match="is an adapter of type vera, which finetuning_type: loha cannot go on with"):
        tuned(train_args(tiny_llama, finetuning_type="loha", **adapter))
    on_top = tuned(train_args(tiny_llama, finetuning_type="loha", create_new_adapter=True, **adapter))
    assert [config.peft_type for config in on_top.peft_config.values()] == ["LOHA"]
    assert trained(tuned(train_args(tiny_llama, finetuning_type="vera", **adapter)))


@pytest.mark.parametrize("kind", ["prompt_tuning", "prefix_tuning"])
def test_a_family_with_pictures_has_no_place_for_virtual_tokens(kind: str, tiny_llama: Path, train_args: Any) -> None:
    from llamafactory.model.tuners.prompt import _require_plain_text

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model.config.rope_parameters = model.config.rope_parameters | {"mrope_section": [4, 2, 2]}
    with pytest.raises(
        ConfigError, match=f"^finetuning_type: {kind} cannot be used: this model gives its tokens positions"
    ):
        _require_plain_text(model, kind)


def test_a_loaded_adapter_says_whether_it_can_be_merged(tiny_llama: Path, train_args: Any, tmp_path: Path) -> None:
    tuned(train_args(tiny_llama, finetuning_type="prompt_tuning")).save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with pytest.raises(ConfigError, match="type PROMPT_TUNING, which cannot be merged"):
        load_adapter(base, str(tmp_path), trainable=False)
