# SPDX-License-Identifier: Apache-2.0
"""Every number key says which numbers it takes, and no other number gets past the parser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from number_values import inside, is_whole, number_keys, outside
from torch.nn.functional import cross_entropy
from transformers import TopPLogitsWarper

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.help_text import help_text
from llamafactory.hparams.ranges import ANY, Range
from llamafactory.hparams.schema import Key

BASE = ["model_name_or_path=org/tiny", "dataset=identity"]
# Keys that take every finite number -> why.
ANY_NUMBER = {
    "freeze_trainable_layers": "the sign says from which end; 0 is refused by the tuner's own check",
    "length_penalty": "an exponent: below 0 it favours short answers",
}
NUMBERS = number_keys()
IDS = [f"{title}:{key.name}" for title, key in NUMBERS]


def refusal(*words: str) -> str:
    try:
        get_train_args([*BASE, *words])
    except ConfigError as error:
        return str(error)
    return ""


def tuner_of(title: str) -> list[str]:
    return [f"finetuning_type={title.removeprefix('tuner ')}"] if title.startswith("tuner ") else []


def test_every_number_key_declares_its_range() -> None:
    assert len(NUMBERS) > 100
    assert {key.name for _, key in NUMBERS if key.within == ANY} == set(ANY_NUMBER)


@pytest.mark.parametrize(("title", "key"), NUMBERS, ids=IDS)
def test_a_number_out_of_range_is_one_line(title: str, key: Key) -> None:
    """Key, expected numbers and the value as it was written; before anything of the run is looked at."""
    for written in outside(key):
        line = refusal(*tuner_of(title), f"{key.name}={written}")
        assert line.startswith(f"{key.name}: expected ") and f", got {written[:70]}" in line.replace("'", ""), written
        assert "\n" not in line


@pytest.mark.parametrize(("title", "key"), NUMBERS, ids=IDS)
def test_the_borders_are_taken(title: str, key: Key) -> None:
    for number in inside(key):
        assert key.read(str(number)) == number
        assert f"{key.name}: expected" not in refusal(*tuner_of(title), f"{key.name}={number}"), number


@pytest.mark.parametrize(("title", "key"), NUMBERS, ids=IDS)
def test_help_shows_the_range(title: str, key: Key) -> None:
    line = next(line for line in help_text("train").splitlines() if line.startswith(f"  {key.name}: "))
    assert str(key.within) in line and (key.within == ANY) == ("(" not in line)


def test_a_key_without_a_range_would_be_missed() -> None:
    """What the walk looks at is the declaration, so a new key that forgets its range is found."""
    assert Range() == ANY and Key("new", int, 1, "", False).within == ANY


REPORTED = {
    "num_train_epochs": ["inf", "nan", "-1", ".inf"],
    "adam_beta1": ["2", "1", "-0.1"],
    "adam_beta2": ["-0.5", "1.0"],
    "adam_epsilon": ["-1"],
    "weight_decay": ["-1"],
    "max_grad_norm": ["-1"],
    "warmup_ratio": ["1.5", "-0.1", "nan"],
    "warmup_steps": ["-1", "1.5"],
    "label_smoothing_factor": ["2", "-1"],
    "neftune_noise_alpha": ["-5"],
    "save_steps": ["0", "-1"],
    "eval_steps": ["0", "-1"],
    "logging_steps": ["0", "-1"],
    "save_total_limit": ["0", "-2"],
    "max_steps": ["0", "-2"],
    "seed": ["-1", str(2**33)],
    "data_seed": ["-1"],
    "dataloader_num_workers": ["-1"],
    "preprocessing_num_workers": ["0", "-4"],
    "max_new_tokens": ["-5"],
}


@pytest.mark.parametrize(("key", "written"), [(key, value) for key, values in REPORTED.items() for value in values])
def test_what_users_have_written(key: str, written: str) -> None:
    line = refusal(f"{key}={written}")
    assert line.startswith(f"{key}: expected ") and "got " in line and written in line


USUAL: list[dict[str, Any]] = [
    {"eval_steps": 0.1, "save_steps": 0.25, "logging_steps": 1, "eval_strategy": "steps", "val_size": 0.1},
    {"warmup_ratio": 0.03},
    {"warmup_ratio": 0},
    {"warmup_steps": 0.1},
    {"warmup_steps": 20},
    {"save_total_limit": None},
    {"save_total_limit": -1},
    {"max_grad_norm": 0},
    {"num_train_epochs": 0.5},
    {"max_steps": -1},
    {"seed": 42},
    {"dataloader_prefetch_factor": None},
    {"neftune_noise_alpha": None},
    {"neftune_noise_alpha": 5},
    {"ddp_timeout": 180000000},
    {"cutoff_len": 131072},
    {"max_samples": 100000000},
    {"val_size": 1},
    {"val_size": 500.0},
    {"learning_rate": "1.0e-4"},
    {"learning_rate": "1e-4"},
    {"lora_alpha": 16, "lora_dropout": 0},
    {"top_k": 0, "temperature": 0, "top_p": 1},
    {"loraplus_lr_ratio": 16.0},
]


@pytest.mark.parametrize("keys", USUAL, ids=str)
def test_what_real_files_hold_is_taken(keys: dict[str, Any]) -> None:
    assert get_train_args({"model_name_or_path": "org/tiny", "dataset": "identity", **keys})


@pytest.mark.parametrize("command", [get_train_args, get_infer_args])
@pytest.mark.parametrize("key", ["temperature", "cutoff_len", "lora_rank", "vllm_maxlen", "image_max_pixels"])
def test_every_command_looks_at_the_keys_that_it_reads(command: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}: expected .* got -1"):
        command([*BASE, f"{key}=-1"])


@pytest.mark.parametrize("written", ["0", "-5"])
def test_an_answer_has_at_least_one_token(written: str) -> None:
    for command in (get_train_args, get_infer_args):
        with pytest.raises(ConfigError, match=rf"^max_new_tokens: expected 1 or more, got {written}$"):
            command([*BASE, f"max_new_tokens={written}"])


def test_the_line_names_the_file(tmp_path: Any) -> None:
    (tmp_path / "c.yaml").write_text("model_name_or_path: m\ndataset: d\nadam_beta1: .nan\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:3: adam_beta1: expected at least 0 and below 1, got nan$"):
        get_train_args([str(tmp_path / "c.yaml")])


# Against the libraries that the numbers are for

SCORES, LABEL = torch.ones(1, 3), torch.ones(1, dtype=torch.long)
WEIGHT = torch.nn.Parameter(torch.ones(2))
LIBRARIES: dict[str, Any] = {
    "adam_beta1": lambda value: torch.optim.AdamW([WEIGHT], betas=(value, 0.9)),
    "adam_beta2": lambda value: torch.optim.AdamW([WEIGHT], betas=(0.9, value)),
    "adam_epsilon": lambda value: torch.optim.AdamW([WEIGHT], eps=value),
    "weight_decay": lambda value: torch.optim.AdamW([WEIGHT], weight_decay=value),
    "learning_rate": lambda value: torch.optim.AdamW([WEIGHT], lr=value),
    "label_smoothing_factor": lambda value: cross_entropy(SCORES, LABEL, label_smoothing=value),
    "top_p": lambda value: TopPLogitsWarper(value),
}
# An empty nucleus; a negative smoothing, which is taken for none.
OVERSIGHTS = {("top_p", 0.0), ("label_smoothing_factor", -1.0), ("label_smoothing_factor", -1e-3)}


@pytest.mark.parametrize("key", LIBRARIES)
@pytest.mark.parametrize("value", [-1.0, -1e-3, 0.0, 1e-3, 0.5, 0.999, 1.0, 1.001, 2.0])
def test_the_ranges_are_those_of_the_libraries(key: str, value: float) -> None:
    """Whatever a library refuses is refused before, and nothing else but what it takes by oversight."""
    try:
        LIBRARIES[key](value)
        taken = (key, value) not in OVERSIGHTS
    except (ValueError, RuntimeError):
        taken = False
    assert taken == (refusal(f"{key}={value}") == "")


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_seed_in_range_can_be_set(seed: int) -> None:
    from transformers import set_seed

    set_seed(seed)
    with pytest.raises(ValueError, match="Seed must be between"):
        set_seed(2**32)


def test_whole_numbers_have_an_end() -> None:
    """A number beyond 32 bits is a slip, and fails deep inside otherwise."""
    assert all(refusal(*tuner_of(title), f"{key.name}={2**63}") for title, key in NUMBERS if is_whole(key))
