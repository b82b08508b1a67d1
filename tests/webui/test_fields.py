# SPDX-License-Identifier: Apache-2.0
"""The table of fields: every key is on the page or in the list of those that make no sense there; what is off."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from llamafactory import plugins
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.help_text import help_text
from llamafactory.hparams.schema import declared_keys
from llamafactory.webui.fields import fields
from llamafactory.webui.fields.applicability import reason_off, reasons_off
from llamafactory.webui.fields.configuration import build
from llamafactory.webui.fields.field_search import search
from llamafactory.webui.fields.fields import COMMON, NOT_ON_PAGE, all_groups, every_field, fields_of, fields_on

BASE = {"top.model_path": "some-owner/some-model", "top.template": "qwen"}


def keys_of_help() -> set[str]:
    """The keys of ``train -h``, out of the text that users read."""
    return set(re.findall(r"^  ([a-z_0-9]+): ", help_text("train"), re.MULTILINE))


def test_every_key_of_train_is_on_the_page_or_has_a_reason():
    on_page = {field.key for field in every_field()}
    assert len(keys_of_help()) > 400
    assert keys_of_help() - on_page == set(NOT_ON_PAGE) & keys_of_help()
    assert not on_page & set(NOT_ON_PAGE), "a key is on the page and said not to be"
    assert set(NOT_ON_PAGE) <= set(declared_keys()) and all(len(why) > 10 for why in NOT_ON_PAGE.values())


def test_the_docs_list_the_keys_that_are_not_on_the_page():
    text = (Path(__file__).parents[2] / "docs" / "webui.md").read_text("utf-8")
    assert {key for key in NOT_ON_PAGE if f"`{key}`" not in text} == set()


def test_no_two_fields_have_one_name():
    assert {name for name, count in Counter(field.id for field in every_field()).items() if count > 1} == set()
    for tab in fields.TABS[1:]:  # nor write one key on one tab
        keys = [field.key for field in [*fields_on("top").values(), *fields_on(tab).values()] if field.key]
        assert {key for key, count in Counter(keys).items() if count > 1} == set(), tab


@pytest.mark.parametrize("field", every_field(), ids=lambda field: field.id)
def test_a_field_shows_what_its_key_takes(field):
    assert field.widget in fields.Widget.__args__ and field.tab in fields.TABS and field.id.startswith(f"{field.tab}.")
    if field.key is None:
        return
    key = declared_keys()[field.key]
    assert field.help == key.help
    for value in [*field.choices, field.default]:
        if value not in (None, "", []) and (field.unset is None or str(value) != str(field.unset)):
            key.read(product_of(value))  # raises if the key does not take what the page offers
    if field.widget in ("number", "slider"):
        for bound in (field.low, field.high):
            if bound is not None and bound not in (key.within.above, key.within.below):
                assert bound == field.unset or int(bound) in key.within or bound in key.within, bound
    if field.widget == "slider":
        assert field.low <= field.default <= field.high and field.step


def product_of(value):
    found = re.fullmatch(r"(\d+)\*(\d+)", str(value))
    return int(found[1]) * int(found[2]) if found else value


def test_a_key_that_a_new_plugin_declares_appears_without_code_of_the_page(monkeypatch, tmp_path):
    """A tuner of another package, found by its row in the table alone; in a process of its own, for what is cached."""
    (tmp_path / "new_tuner.py").write_text(
        "from dataclasses import dataclass\n"
        "from llamafactory.hparams.field import arg\n"
        "@dataclass(frozen=True)\n"
        "class Arguments:\n"
        '    brand_new_rank: int = arg(3, "Rank of what nobody knows yet.")\n'
    )
    code = (
        "from llamafactory import plugins; plugins.TUNERS['brand_new'] = 'new_tuner'\n"
        "from llamafactory.webui.fields.fields import fields_on, COMMON\n"
        "from llamafactory.webui.fields.field_search import search\n"
        "from llamafactory.webui.fields.applicability import reason_off\n"
        "field = fields_on('train')['train.brand_new_rank']\n"
        "print(field.widget, field.default, field.group, field.help,\n"
        "      'brand_new' in COMMON['top.finetuning_type'].choices)\n"
        "print(search('nobody knows')[0].id, reason_off(field, {}) is not None,\n"
        "      reason_off(field, {'top.finetuning_type': 'brand_new'}))"
    )
    monkeypatch.setenv("PYTHONPATH", f"{Path(fields.__file__).parents[3]}:{tmp_path}")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "number 3 tuner brand_new Rank of what nobody knows yet. True",
        "train.brand_new_rank True None",
    ], done.stderr


def test_the_table_needs_no_torch_and_no_gradio():
    code = (
        "import sys, llamafactory.webui.fields.configuration, llamafactory.webui.fields.field_search\n"
        "print([name for name in ('torch', 'transformers', 'gradio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr


# ---- what is greyed out, against what the parser refuses ----


def set_to(field) -> object:
    """A value other than the default that asks for something."""
    if field.widget == "switch":
        return not field.default
    if field.widget in ("number", "slider"):
        low = field.low if field.low is not None else 0
        return (field.default or low) + (1 if field.step in (None, 1) else field.step)
    return "x"


# Each costs seconds of the parser's; a reason is nearly always the stage's or the tuner's alone.
COMBINATIONS = [
    pytest.param(tuner, stage, marks=() if tuner == "lora" or stage == "sft" else pytest.mark.slow)
    for tuner in ("lora", "full", "freeze", "oft")
    for stage in plugins.STAGES
]


@pytest.mark.parametrize(("tuner", "stage"), COMBINATIONS)
def test_what_is_refused_for_its_stage_or_tuner_is_greyed_out(stage, tuner, monkeypatch):
    """The parser is the judge: a switch that it refuses with "only for stage …" or the like must be off on the page."""
    chosen = {**BASE, "train.training_stage": stage, "top.finetuning_type": tuner}
    off = reasons_off("train", chosen)
    config = {"model_name_or_path": "m", "stage": stage, "finetuning_type": tuner, "dataset": "d", "template": "qwen"}
    if stage in ("ppo", "grpo"):
        config["reward_funcs"] = "length"
    wrong = []
    for field in fields_on("train").values():
        if field.key is None or field.widget != "switch" or field.key in config:
            continue
        try:
            get_train_args(config | {field.key: set_to(field)})
            refused = ""
        except ConfigError as error:
            refused = str(error)
        belongs = re.search(
            rf"^{field.key}: (only|in stage|not with finetuning_type|asks for|true asks|false asks)", refused
        )
        if belongs and field.id not in off:
            wrong.append(refused)
    assert wrong == []


def test_reasons_name_what_is_chosen():
    reason = reasons_off("train", {"train.training_stage": "sft"})["train.pref_loss"]
    assert "dpo" in reason and "sft" in reason
    assert "train.pref_loss" not in reasons_off("train", {"train.training_stage": "dpo"})
    assert "freeze" in reasons_off("train", {})["train.freeze_trainable_layers"]
    assert "use_galore" in reasons_off("train", {"top.finetuning_type": "full"})["train.galore_rank"]
    on = {"top.finetuning_type": "full", "train.use_galore": True}
    assert not {"train.use_galore", "train.galore_rank"} & set(reasons_off("train", on))
    assert "top.quantization_bit" in reasons_off("train", {"top.finetuning_type": "full"})
    assert reason_off(COMMON["top.quantization_method"], {"top.quantization_bit": "4"}) is None
    assert "KTransformers" in reasons_off("train", {})["train.kt_weight_path"]
    assert "train.image_max_pixels" in reasons_off("train", {})
    shown = reasons_off("train", {"top.model_name": "Qwen3-VL-2B-Instruct"})
    assert "train.image_max_pixels" not in shown
    assert reasons_off("train", {}, "zh")["train.pref_loss"] != reason
    assert "LLAMABOARD_TRUST_REMOTE_CODE" in reasons_off("train", {})["train.trust_remote_code"]


def test_a_field_that_is_off_writes_nothing():
    values = {**BASE, "train.pref_beta": 0.7, "train.galore_rank": 4, "train.freeze_extra_modules": "x"}
    assert not {"pref_beta", "galore_rank", "freeze_extra_modules"} & set(build("train", values))
    assert build("train", values | {"train.training_stage": "dpo"})["pref_beta"] == 0.7


# ---- the search box ----


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("learning_rate", "train.learning_rate"),
        ("Learning Rate", "train.learning_rate"),
        ("lerning", "train.learning_rate"),  # a slip
        ("dpo_beta", "train.pref_beta"),  # an older name
        ("noise embeddings", "train.neftune_alpha"),  # by what it means
        ("qlora", "top.quantization_bit"),
        ("early stop", "train.early_stopping_steps"),
        ("adam_beta2", "train.adam_beta2"),
        ("bf16", "train.compute_type"),
        ("flash attn", "top.booster"),
        ("megatron checkpoint", "train.megatron_pretrained_checkpoint"),
    ],
)
def test_searching_finds_a_key_by_name_or_meaning(words, expected):
    assert expected in [field.id for field in search(words, most=3)]


def test_searching_in_other_languages():
    assert "train.learning_rate" in [field.id for field in search("学习率", "zh", most=3)]
    assert "train.learning_rate" in [field.id for field in search("скорость обучения", "ru", most=3)]
    assert "train.learning_rate" in [field.id for field in search("学習率", "ja", most=3)]
    assert "train.learning_rate" in [field.id for field in search("학습률", "ko", most=3)]
    assert search("") == [] and search("zzzqqq") == [] and search("\0../;") == [] and search("x" * 10_000) == []


def test_groups_of_other_keys_are_the_sections():
    groups = all_groups("train")
    assert "training" in groups and "tuner lora" in groups and "model" in groups
    assert not {field.key for group in groups.values() for field in group} & {
        field.key for field in [*fields_of("top"), *fields_of("train")]
    }
