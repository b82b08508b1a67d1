# SPDX-License-Identifier: Apache-2.0
"""300 YAML files as people write them: old keys and values, empty keys, numbers in quotes, words for booleans."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llamafactory.extras.errors import ConfigError, UsageError
from llamafactory.hparams import TrainArgs, get_train_args
from llamafactory.plugins import names

FILES = 300


class Line(NamedTuple):
    """A line as someone wrote it (or several), and what it means: (section, key, value) each."""

    text: str
    means: tuple[tuple[str, str, Any], ...] = ()


def _is(text: str, section: str, key: str, value: Any) -> Line:
    return Line(text, ((section, key, value),))


# One of each group is taken; every value is spelled in several ways.
MODEL = [
    _is("model_name_or_path: meta-llama/Meta-Llama-3-8B-Instruct", "model", "model_name_or_path",
        "meta-llama/Meta-Llama-3-8B-Instruct"),
    _is("model_name_or_path: 'Qwen/Qwen2.5-7B-Instruct'  # hub", "model", "model_name_or_path",
        "Qwen/Qwen2.5-7B-Instruct"),
    Line("model_name_or_path: ./model\ntrust_remote_code: true", (("model", "trust_remote_code", True),)),
    Line("model_name_or_path: ./model\nquantization_method: bitsandbytes",
         (("quantization", "quantization_bit", None), ("quantization", "quantization_method", "bnb"))),
]  # fmt: skip
METHOD = [
    Line("finetuning_type: lora\nlora_target: all\nlora_rank: 8",
         (("tuner", "lora_target", "all"), ("tuner", "lora_rank", 8))),
    Line('finetuning_type: lora\nlora_target: q_proj,v_proj\nlora_rank: "16"\nlora_alpha: 32',
         (("tuner", "lora_target", "q_proj,v_proj"), ("tuner", "lora_rank", 16), ("tuner", "lora_alpha", 32))),
    Line("finetuning_type: lora\nlora_target: [q_proj, v_proj]\nlora_dropout: 5e-2",
         (("tuner", "lora_target", "q_proj,v_proj"), ("tuner", "lora_dropout", 0.05))),
    Line("finetuning_type: full", (("finetuning", "finetuning_type", "full"),)),
    Line("finetuning_type: freeze\nnum_layer_trainable: 2\nname_module_trainable: all",
         (("tuner", "freeze_trainable_layers", 2), ("tuner", "freeze_trainable_modules", "all"))),
]  # fmt: skip
DATASETS = [
    _is("dataset: identity,alpaca_en_demo", "data", "dataset", "identity,alpaca_en_demo"),
    _is("dataset: [identity, alpaca_en_demo]", "data", "dataset", "identity,alpaca_en_demo"),
    _is("dataset:\n  - identity\n  - alpaca_en_demo", "data", "dataset", "identity,alpaca_en_demo"),
    _is('dataset: "identity"   # video: mllm_video_demo', "data", "dataset", "identity"),
]
LENGTH = [
    _is("cutoff_len: 1024", "data", "cutoff_len", 1024),
    _is("cutoff_len: '1024'", "data", "cutoff_len", 1024),
    _is("cutoff_len: 1_024", "data", "cutoff_len", 1024),
    _is("cutoff_len:", "data", "cutoff_len", 2048),
    _is("cutoff_len:   # as long as it takes", "data", "cutoff_len", 2048),
]
MORE_DATA = [
    _is("max_samples: 1000", "data", "max_samples", 1000),
    _is("max_samples:", "data", "max_samples", None),
    _is("overwrite_cache: true", "data", "overwrite_cache", True),
    _is("preprocessing_num_workers: 16", "data", "preprocessing_num_workers", 16),
    _is("dataloader_num_workers: 4", "training", "dataloader_num_workers", 4),
    _is("cache_path: ./tokens", "data", "tokenized_path", "./tokens"),
    _is("val_size: 0.1\neval_strategy: steps\neval_steps: 500", "data", "val_size", 0.1),
    _is("val_size: .1\nevaluation_strategy: steps\neval_steps: 500", "training", "eval_strategy", "steps"),
    _is("reserved_label_len: 1", "data", "overlong", "truncate"),
]  # fmt: skip
OUTPUT = [
    _is("output_dir: saves/llama3-8b/lora/sft", "training", "output_dir", "saves/llama3-8b/lora/sft"),
    Line("output_dir: 'saves/x'\noverwrite_output_dir: true\nplot_loss: true",
         (("training", "overwrite_output_dir", True), ("finetuning", "plot_loss", True))),
    Line("output_dir: saves/x\nlogging_steps: 10\nsave_steps: 500\nsave_only_model: false\nreport_to: none",
         (("training", "logging_steps", 10), ("training", "save_steps", 500))),
    Line('output_dir: saves/x\nlogging_steps: "10"\nsave_safetensors: true\nlogging_dir: logs',
         (("training", "logging_steps", 10),)),
]  # fmt: skip
RATE = [
    _is(f"learning_rate: {text}", "training", "learning_rate", 1e-4)
    for text in ("1e-4", "1.0e-4", '"1e-4"', "'0.0001'", "1.0E-4", "0.0001  # tuned")
] + [_is("learning_rate:", "training", "learning_rate", 5e-5)]
STEPS = [
    Line("per_device_train_batch_size: 1\ngradient_accumulation_steps: 8",
         (("training", "per_device_train_batch_size", 1), ("training", "gradient_accumulation_steps", 8))),
    Line("per_gpu_train_batch_size: 2\nnum_train_epochs: 3.0",
         (("training", "per_device_train_batch_size", 2), ("training", "num_train_epochs", 3.0))),
    Line('max_steps: "100"\nlr_scheduler_type: cosine\nwarmup_ratio: 0.1',
         (("training", "max_steps", 100), ("training", "warmup_steps", 0.1))),
    Line("num_train_epochs: 1\nwarmup_steps: 0\nlr_scheduler_type: linear", (("training", "num_train_epochs", 1),)),
    Line("max_grad_norm: 1.0\nresume_from_checkpoint: null\nddp_timeout: 180000000",
         (("training", "resume_from_checkpoint", None), ("training", "ddp_timeout", 180000000))),
]  # fmt: skip
TRUE = ("true", "True", "TRUE", "yes", "on", '"true"', "'True'", "1")
FALSE = ("false", "False", "no", "off", '"false"', "0")
OLD = [
    Line(""),
    Line("flash_attn: auto", (("model", "flash_attn", "auto"),)),
    Line("flash_attn: off", (("model", "flash_attn", "disabled"),)),
    Line("flash_attn: fa2", (("model", "flash_attn", "fa2"),)),
    Line("use_fast_tokenizer: true\nray_run_name: x\nray_storage_path: ./r"),
    Line("visual_inputs: true"),
    Line("train_mm_proj_only: false", (("finetuning", "freeze_language_model", False),)),
    Line("export_device: gpu", (("export", "export_device", "auto"),)),
    Line("export_device: cuda", (("export", "export_device", "auto"),)),
    Line("use_mps_device: false\nfp16_backend: auto"),
]  # fmt: skip
PREFERENCE = [
    Line("pref_beta: 0.1\npref_loss: sigmoid", (("rlhf", "pref_beta", 0.1), ("rlhf", "pref_loss", "sigmoid"))),
    Line("dpo_beta: '0.2'\ndpo_loss: orpo", (("rlhf", "pref_beta", 0.2), ("rlhf", "pref_loss", "orpo"))),
    Line("pref_beta: 0.1\npacking: true", (("data", "packing", None),)),
]  # fmt: skip


def _switch(rng: random.Random) -> Line:
    value = rng.random() < 0.5
    key, section = rng.choice(
        [("group_by_length", ""), ("streaming", "data"), ("mask_history", "data"), ("disable_shuffling", "finetuning")]
    )
    word = rng.choice(TRUE if value else FALSE)
    if key == "group_by_length":
        return _is(f"{key}: {word}", "training", "train_sampling_strategy", "group_by_length" if value else "random")
    if key == "streaming":
        return _is("streaming: false", section, key, False)
    return _is(f"{key}: {word}", section, key, value)


def _file(number: int) -> tuple[str, list[tuple[str, str, Any]]]:
    """A file and what each of its lines means."""
    rng = random.Random(number)
    pick: Callable[[list[Line]], Line] = rng.choice
    stage = ("pt", "sft", "rm", "dpo", "kto")[number % 5]
    template = names("templates")[number % len(names("templates"))]
    switch = _switch(rng)
    refused = {"pt": "mask", "sft": " "}.get(stage, "mask")
    while switch.text.startswith(refused):
        switch = _switch(rng)
    asked = Line(f"stage: {stage}\ndo_train: {rng.choice(TRUE)}", (("finetuning", "stage", stage),))
    groups: list[tuple[str, list[Line]]] = [
        ("model", [pick(MODEL)]),
        ("method", [asked, pick(METHOD)]),
        ("dataset", [pick(DATASETS), _is(f"template: {template}", "data", "template", template), pick(LENGTH),
                     pick(MORE_DATA)]),
        ("output", [pick(OUTPUT)]),
        ("train", [pick(RATE), pick(STEPS), switch, pick(OLD)]),
    ]  # fmt: skip
    if stage == "dpo":
        groups[1][1].append(pick(PREFERENCE))
    form = number % 4
    if form == 1:
        rng.shuffle(groups)
    heads = {0: "### {}\n", 1: "# {}\n", 2: "", 3: "\n#---- {} ----#\n"}[form]
    body = "\n".join(heads.format(title) + "\n".join(line.text for line in lines) for title, lines in groups)
    ending = "\r\n" if number % 7 == 0 else "\n"
    start = "\ufeff" if number % 11 == 0 else "---\n" if number % 13 == 0 else ""
    text = start + (body + "\n").replace("\n", ending)
    return text, [meaning for _, lines in groups for line in lines for meaning in line.means]


@pytest.mark.parametrize("start", range(0, FILES, 50))
def test_files_are_read_as_they_were_meant(start: int, tmp_path: Path) -> None:
    for number in range(start, start + 50):
        text, meanings = _file(number)
        file = tmp_path / f"{number}.{('yaml', 'yml')[number % 2]}"
        file.write_bytes(text.encode("utf-8"))
        try:
            args: TrainArgs = get_train_args([str(file)])
        except ValueError as error:
            raise AssertionError(f"file {number}: {error}\n{text}") from error
        for section, key, value in meanings:
            found = getattr(getattr(args, section), key)
            assert found == value and isinstance(found, bool) == isinstance(value, bool), (number, key, found, text)


def test_the_files_hold_every_line_stage_and_template() -> None:
    texts = [_file(number)[0].replace("\r\n", "\n") for number in range(FILES)]
    pools = [MODEL, METHOD, DATASETS, LENGTH, MORE_DATA, OUTPUT, RATE, STEPS, OLD, PREFERENCE]
    missing = [line.text for pool in pools for line in pool if not any(line.text in text for text in texts)]
    assert not missing
    assert all(any(f"template: {name}\n" in text for text in texts) for name in names("templates"))


def test_what_is_not_built_is_said_and_not_read_away() -> None:
    base = {"model_name_or_path": "m", "dataset": "identity", "output_dir": "o"}
    with pytest.raises(UsageError, match=r"^use_mca: True asks for"):
        get_train_args({**base, "use_mca": True})
    with pytest.raises(ConfigError, match=r"^use_unsloth: its loader puts forwards of its own"):
        get_train_args({**base, "use_unsloth": "true"})
