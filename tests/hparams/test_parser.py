# SPDX-License-Identifier: Apache-2.0
"""Typed values, older names, rules between keys, parts that are not built, and what follows from what."""

from __future__ import annotations

import json

import pytest

from llamafactory.extras import logging
from llamafactory.extras.device import Device
from llamafactory.extras.errors import ConfigError, UsageError
from llamafactory.hparams import Dtypes, TrainArgs, aliases, get_infer_args, get_train_args, resolve_dtypes, to_dict

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


def train(**keys):
    return get_train_args({**BASE, **keys})


@pytest.mark.parametrize(
    ("section", "key", "given", "expected"),
    [
        ("training", "learning_rate", "1e-4", 1e-4),
        ("training", "learning_rate", 1, 1.0),
        ("training", "num_train_epochs", "3", 3.0),
        ("training", "max_steps", "1e2", 100),
        ("training", "max_steps", 5.0, 5),
        ("training", "bf16", "yes", True),
        ("training", "bf16", "False", False),
        ("training", "bf16", "null", None),
        ("training", "eval_strategy", False, "no"),
        ("training", "save_strategy", "EPOCH", "epoch"),
        ("training", "eval_steps", "none", None),
        ("training", "include_num_input_tokens_seen", True, True),
        ("training", "include_num_input_tokens_seen", "all", "all"),
        ("training", "report_to", "none", "none"),
        ("training", "report_to", "wandb,tensorboard", ["wandb", "tensorboard"]),
        ("training", "report_to", ["wandb"], ["wandb"]),
        ("training", "include_for_metrics", "inputs, loss", ["inputs", "loss"]),
        ("training", "activation_checkpointing_kwargs", '{"a": 1}', {"a": 1}),
        ("training", "activation_checkpointing_kwargs", {"a": 1}, {"a": 1}),
        ("training", "trackio_static_space_id", False, False),
        ("data", "dataset", ["a", "b"], "a,b"),
        ("data", "dataset", "[a, b]", "a,b"),
        ("data", "enable_thinking", None, None),
        ("data", "enable_thinking", "false", False),
        ("data", "template", "null", None),
        ("data", "val_size", "0.1", 0.1),
        ("data", "dataset_dir", {"x": {"file_name": "f"}}, {"x": {"file_name": "f"}}),
        ("model", "rope_scaling", "yarn", "yarn"),
        ("tuner", "lora_target", "q_proj,v_proj", "q_proj,v_proj"),
        ("swanlab", "swanlab_mode", "local", "local"),
    ],
)
def test_values_take_the_declared_type(section, key, given, expected):
    value = getattr(getattr(train(**{key: given}), section), key)
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("lora_rank", "abc", "lora_rank: expected int, got 'abc'"),
        ("lora_rank", 1.5, "lora_rank: expected int, got 1.5"),
        ("lora_rank", True, "lora_rank: expected int, got True"),
        ("max_steps", None, "max_steps: expected int, got null"),
        ("learning_rate", "fast", "learning_rate: expected float, got 'fast'"),
        ("learning_rate", [1], r"learning_rate: expected float, got \[1\]"),
        ("packing", "maybe", "packing: expected true or false or null, got 'maybe'"),
        ("do_train", 2, "do_train: expected true or false, got 2"),
        ("overlong", "cut", "overlong: expected one of truncate, drop, error, split, keep_start, keep_end, got 'cut'"),
        ("optim", "adam", "optim: expected one of adamw_torch, adamw_torch_fused"),
        ("fsdp_config", [3], r"fsdp_config: expected mapping or text or null, got \[3\]"),
        ("liger_kernel_config", "{bad", "liger_kernel_config: expected mapping or null, got '{bad'"),
        ("model_name_or_path", ["a", "b"], r"model_name_or_path: expected text or null, got \['a', 'b'\]"),
        ("dataset", ["a,b"], "dataset: an entry may not contain a comma, got 'a,b'"),
        ("dataset", [{"a": 1}], "dataset: expected a list of text"),
        ("num_train_epochs", "inf steps", "num_train_epochs: expected float"),
        ("seed", "inf", "seed: expected int, got 'inf'"),
        (
            "stage",
            "sftt",
            "stage: expected one of pt, sft, rm, dpo, kto, ppo, grpo, gkd, classification, embedding, reranker, "
            "got 'sftt'",
        ),
        (
            "finetuning_type",
            "lorra",
            "finetuning_type: expected one of lora, full, freeze, oft or another",
        ),
    ],
)
def test_wrong_types_are_one_line(key, given, message):
    with pytest.raises(ConfigError, match="^" + message) as caught:
        train(**{key: given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["learning_rate", "stage", "template", "quantization_bit", "label_names", "deepspeed"])
def test_a_list_of_a_hundred_is_not_told_whole(key):
    with pytest.raises(ConfigError) as caught:
        train(**{key: [f"name_{number}" for number in range(100)]})
    assert str(caught.value).startswith(f"{key}: ") and "name_0" in str(caught.value) and len(str(caught.value)) < 250


def test_wrong_type_in_a_file_names_the_line(tmp_path):
    (tmp_path / "c.yaml").write_text("model_name_or_path: m\ndataset: d\n\nseed: x\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:4: seed: expected int, got 'x'$"):
        get_train_args([str(tmp_path / "c.yaml")])


def test_keys_of_another_tuner_are_known_but_not_built():
    args = train(finetuning_type="full", lora_rank="not even a number", freeze_trainable_layers=2)
    assert not hasattr(args.tuner, "lora_rank")
    assert train(finetuning_type="freeze", freeze_trainable_layers="3").tuner.freeze_trainable_layers == 3


def test_inference_accepts_and_ignores_training_keys():
    args = get_infer_args(
        {**BASE, "learning_rate": "anything", "deepspeed": "none.json", "stage": "dpo", "streaming": True}
    )
    assert not isinstance(args, TrainArgs) and not hasattr(args, "training")


@pytest.mark.parametrize(
    ("older", "section", "key", "expected"),
    [
        ({"evaluation_strategy": "steps", "val_size": 0.1}, "training", "eval_strategy", "steps"),
        ({"warmup_ratio": 0.1}, "training", "warmup_steps", 0.1),
        ({"warmup_ratio": 0.1, "warmup_steps": 20}, "training", "warmup_steps", 20),
        ({"no_cuda": True}, "training", "use_cpu", True),
        ({"per_gpu_train_batch_size": 3}, "training", "per_device_train_batch_size", 3),
        ({"adafactor": True}, "training", "optim", "adafactor"),
        ({"adafactor": False}, "training", "optim", "adamw_torch_fused"),
        ({"group_by_length": True}, "training", "train_sampling_strategy", "group_by_length"),
        ({"include_inputs_for_metrics": True}, "training", "include_for_metrics", ["inputs"]),
        ({"save_safetensors": True, "fp16_opt_level": "O1", "logging_dir": "x"}, "training", "seed", 42),
        ({"overwrite_output_dir": True}, "training", "overwrite_output_dir", True),
        ({"train_last_turn_only": True}, "data", "mask_history", True),
        ({"new_special_tokens": "<a>,<b>"}, "model", "add_special_tokens", "<a>,<b>"),
        ({"num_layer_trainable": 4, "finetuning_type": "freeze"}, "tuner", "freeze_trainable_layers", 4),
    ],
)
def test_older_names_keep_working(older, section, key, expected):
    args = train(**older)
    assert getattr(getattr(args, section), key) == expected
    assert not set(older) & set(aliases.RENAMED) & set(args.keys)


def test_older_names_are_said_once(monkeypatch, capsys):
    monkeypatch.setattr(logging, "_said", set())
    for _ in range(3):
        train(warmup_ratio=0.1, save_safetensors=True)
    said = capsys.readouterr().err
    assert said.count("warmup_ratio: now called warmup_steps") == 1
    assert said.count("save_safetensors: has no effect any more") == 1


def test_older_and_newer_name_that_differ_are_an_error():
    with pytest.raises(ConfigError, match="evaluation_strategy is the older name of eval_strategy, and both are given"):
        train(evaluation_strategy="steps", eval_strategy="epoch")


RULES = {
    "no model": ({"model_name_or_path": None}, "model_name_or_path: missing"),
    "no dataset": ({"dataset": None}, "dataset: missing"),
    "val_size and eval_dataset": ({"val_size": 0.1, "eval_dataset": "e"}, "val_size: cannot be combined"),
    "val_size without dataset": ({"val_size": 0.1, "dataset": None, "do_eval": True}, "val_size: needs dataset"),
    "val_size 2.5": ({"val_size": 2.5}, "val_size: expected a share"),
    "probs with concat": ({"interleave_probs": "1"}, "interleave_probs: needs a mix_strategy"),
    "probs count": (
        {"interleave_probs": "0.5,0.5", "mix_strategy": "interleave_under"},
        "interleave_probs: 2 numbers for 1",
    ),
    "probs text": ({"interleave_probs": "x", "mix_strategy": "interleave_under"}, "interleave_probs: expected numbers"),
    "two masks": ({"mask_history": True, "train_on_prompt": True}, "mask_history: cannot be combined"),
    "mask outside sft": ({"mask_history": True, "stage": "pt"}, "mask_history: only for stage sft"),
    "neat packing outside sft": ({"neat_packing": True, "stage": "pt"}, "neat_packing: only for stage sft"),
    "neat without packing": ({"neat_packing": True, "packing": False}, "neat_packing: cannot be combined"),
    "predict without generate": ({"do_predict": True, "eval_dataset": "e"}, "do_predict: needs predict_with_generate"),
    "generate outside sft": (
        {"predict_with_generate": True, "stage": "pt"},
        "predict_with_generate: only for stage sft",
    ),
    "generate and accuracy": (
        {"predict_with_generate": True, "compute_accuracy": True},
        "predict_with_generate: not tog",
    ),
    "eval without set": ({"eval_strategy": "steps"}, "eval_strategy: needs eval_dataset or val_size"),
    "do_eval without set": ({"do_eval": True}, "do_eval: needs eval_dataset or val_size"),
    "early stop without eval": ({"early_stopping_steps": 2}, "early_stopping_steps: needs eval_strategy"),
    "best without eval": ({"load_best_model_at_end": True}, "load_best_model_at_end: needs eval_strategy"),
    "both formats": ({"bf16": True, "fp16": True}, "bf16 and fp16: choose one"),
    "pure bf16 and fp16": ({"pure_bf16": True, "fp16": True}, "pure_bf16: cannot be combined"),
    "adapter with full": (
        {"finetuning_type": "full", "adapter_name_or_path": "a"},
        "adapter_name_or_path: needs finetuning",
    ),
    "device map in training": ({"quantization_device_map": "auto"}, "quantization_device_map: only for inference"),
    "smoothing": ({"dpo_label_smoothing": 0.1, "pref_loss": "ipo"}, "dpo_label_smoothing: only with pref_loss sigmoid"),
    "trains nothing": ({"num_train_epochs": 0}, "num_train_epochs: 0.0 trains nothing"),
    "batch 0": ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: expected 1 or more"),
    "temperature": ({"temperature": -1}, "temperature: expected 0 or more"),
    "top_p": ({"top_p": 1.5}, "top_p: expected above 0 and at most 1"),
    "cutoff": ({"cutoff_len": 1}, "cutoff_len: expected 2 or more"),
    "resume": ({"resume_from_checkpoint": "absent"}, "resume_from_checkpoint: no such folder"),
}


@pytest.mark.parametrize("name", RULES)
def test_rules_between_keys(name):
    keys, message = RULES[name]
    with pytest.raises(ConfigError, match="^" + message) as caught:
        train(**keys)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lora_modules": "law"}, "lora_modules: expected name=path, got 'law'"),
        ({"lora_modules": "a=x,a=y"}, "lora_modules: the name 'a' stands twice"),
        ({"max_new_tokens": -5}, "max_new_tokens: expected 1 or more"),
        ({"max_batch_size": 0}, "max_batch_size: expected 1 or more, got 0"),
        ({"vllm_config": "{"}, "vllm_config: not JSON"),
        ({"sglang_config": "[1]"}, "sglang_config: expected a mapping"),
        ({"vllm_gpu_util": 1.5}, "vllm_gpu_util: expected above 0 and at most 1"),
    ],
)
def test_rules_of_the_engines(keys, message):
    with pytest.raises(ConfigError, match="^" + message):
        get_infer_args({"model_name_or_path": "there/is/one", "template": "empty", **keys})


UNBUILT = [
    {"mixture_of_depths": "convert"},
    *({key: True} for key in ("use_mca", "use_megatron_bridge", "use_hyper_parallel", "use_kt")),
]


@pytest.mark.parametrize("keys", UNBUILT, ids=str)
def test_parts_not_built_say_so(keys):
    key, value = next(iter(keys.items()))
    with pytest.raises(UsageError, match=rf"^{key}: {value} asks for .*, (which|whose) .*$") as caught:
        train(**keys)
    assert caught.value.exit_code == 2


def test_switches_of_the_environment_that_are_not_built(monkeypatch):
    monkeypatch.setenv("USE_KT", "1")
    with pytest.raises(UsageError, match=r"^USE_KT: asks for KTransformers, which trains with a transformers"):
        train()
    get_infer_args(BASE)


def test_switches_of_speed_alone_are_said_and_not_refused(monkeypatch, capsys):
    monkeypatch.setattr(logging, "_said", set())
    assert train(use_v1_kernels=True).model.use_v1_kernels
    assert "use_v1_kernels: kernel plug-ins are not built yet" in capsys.readouterr().err


def test_what_to_do_and_where_follows():
    assert train().training.do_train
    assert train().training.output_dir == "saves/tiny/lora/sft"
    assert train(model_name_or_path="pkg://p/m.gguf", stage="pt").training.output_dir == "saves/m/lora/pt"
    args = train(do_eval=True, eval_dataset="e", dataset=None, output_dir="~/x")
    assert not args.training.do_train and not args.training.output_dir.startswith("~")


def test_a_finished_folder_is_not_trained_over(tmp_path):
    (tmp_path / "run_manifest.json").touch()
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"output_dir: .* already holds weights"):
        train(output_dir=str(tmp_path))
    assert train(output_dir=str(tmp_path), overwrite_output_dir=True)
    assert train(output_dir=str(tmp_path), do_eval=True, val_size=0.1)
    (tmp_path / "checkpoint-5").mkdir()
    assert train(output_dir=str(tmp_path))  # interrupted: to be resumed


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "config.json", "checkpoint-5", "tokenizer.json"])
@pytest.mark.parametrize("keys", [{}, {"overwrite_output_dir": True}, {"resume_from_checkpoint": "true"}], ids=str)
def test_a_folder_that_no_run_made_is_left_alone(tmp_path, name, keys):
    """A base model, a repository, a result of another program: nothing in it is written over, whatever is asked for."""
    (tmp_path / name).mkdir() if name == "checkpoint-5" else (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=rf"output_dir: .* holds {name} but no run_manifest.json, .*another folder"):
        train(output_dir=str(tmp_path), **keys)


def test_the_base_model_is_not_trained_over(tmp_path):
    """Also where it is an export of ours."""
    (tmp_path / "run_manifest.json").touch()
    keys = {"model_name_or_path": str(tmp_path), "output_dir": f"{tmp_path}/.", "overwrite_output_dir": True}
    with pytest.raises(ConfigError, match=r"output_dir: .* is the model that training starts from"):
        train(**keys)
    assert train(**keys, do_eval=True, val_size=0.1)


@pytest.mark.parametrize("action", ["do_eval", "do_predict"])
@pytest.mark.parametrize("value", [False, "false"])
def test_an_action_that_is_off_is_none(action, value):
    assert train(**{action: value}).training.do_train


def test_a_run_that_only_evaluates_takes_what_was_trained(tmp_path):
    keys = {"output_dir": str(tmp_path), "eval_dataset": "e", "dataset": None}
    (tmp_path / "run_manifest.json").touch()
    assert train(**keys, do_eval=True).model.adapter_name_or_path is None
    (tmp_path / "adapter_config.json").touch()
    assert train(**keys, do_eval=True).model.adapter_name_or_path == str(tmp_path)
    assert train(**keys, do_eval=True, adapter_name_or_path=None).model.adapter_name_or_path is None
    both = {**keys, "dataset": "d", "do_eval": True, "do_train": True, "overwrite_output_dir": True}
    assert train(**both).model.adapter_name_or_path is None


def test_files_beside_which_a_run_can_write_are_no_hindrance(tmp_path):
    for name in ("my.yaml", "log.txt", "rows.jsonl"):
        (tmp_path / name).touch()
    assert train(output_dir=str(tmp_path))


def test_one_file_serves_training_and_inference(tmp_path, capsys):
    """What a configuration has trained is what chat and export take, unless they are told otherwise."""
    keys = {**BASE, "output_dir": str(tmp_path)}
    assert get_infer_args(keys).model.adapter_name_or_path is None
    assert f"nothing is trained in {tmp_path} yet: this is the base model" in capsys.readouterr().err
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "adapter_config.json").write_text("{}")
    assert get_infer_args(keys).model.adapter_name_or_path is None
    assert f"was stopped, and this is the base model; try it with adapter_name_or_path={tmp_path}/checkpoint-10" in (
        capsys.readouterr().err
    )
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert get_infer_args(keys).model.model_name_or_path == str(tmp_path)
    assert "using the model in" in capsys.readouterr().err
    (tmp_path / "adapter_config.json").write_text("{}")
    args = get_infer_args(keys)
    assert (args.model.model_name_or_path, args.model.adapter_name_or_path) == ("org/tiny", str(tmp_path))
    assert f"using the adapter in {tmp_path}" in capsys.readouterr().err
    assert get_infer_args({**keys, "adapter_name_or_path": None}).model.adapter_name_or_path is None
    assert get_infer_args({**keys, "adapter_name_or_path": "other"}).model.adapter_name_or_path == "other"


def test_without_training_keys_no_adapter_is_picked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = tmp_path / "saves" / "tiny" / "lora" / "sft"
    trained.mkdir(parents=True)
    (trained / "adapter_config.json").write_text("{}")
    assert get_infer_args({"model_name_or_path": "org/tiny"}).model.adapter_name_or_path is None
    assert get_infer_args(BASE).model.adapter_name_or_path == "saves/tiny/lora/sft"


CPU = Device("cpu", 0, 1, bf16=False, fp16=False, memory_bytes=1, name="old CPU")
AMX = Device("cpu", 0, 1, bf16=True, fp16=False, memory_bytes=1, name="new CPU")
VOLTA = Device("cuda", 0, 1, bf16=False, fp16=True, memory_bytes=1, name="V100")
HOPPER = Device("cuda", 0, 1, bf16=True, fp16=True, memory_bytes=1, name="H100")
B, H, F = "bfloat16", "float16", "float32"


@pytest.mark.parametrize(
    ("keys", "device", "expected"),
    [
        ({}, CPU, Dtypes(F, F, F, False)),
        ({}, AMX, Dtypes(B, F, B, False)),
        ({}, VOLTA, Dtypes(F, F, F, False)),
        ({"bf16": False}, HOPPER, Dtypes(F, F, F, False)),
        ({"bf16": True}, CPU, Dtypes(B, F, B, False)),
        ({"fp16": True}, VOLTA, Dtypes(H, F, H, False)),
        ({"fp16": True}, HOPPER, Dtypes(H, F, H, False)),
        ({"finetuning_type": "full"}, HOPPER, Dtypes(F, F, B, True)),
        ({"finetuning_type": "freeze"}, HOPPER, Dtypes(B, F, B, True)),
        ({"finetuning_type": "full", "pure_bf16": True}, HOPPER, Dtypes(B, B, B, False)),
    ],
)
def test_training_number_formats(keys, device, expected):
    assert resolve_dtypes(train(**keys), device) == expected


@pytest.mark.parametrize(
    ("keys", "device"), [({"bf16": True}, VOLTA), ({"pure_bf16": True}, VOLTA), ({"fp16": True}, AMX)]
)
def test_a_format_the_device_has_not_is_an_error(keys, device):
    with pytest.raises(ConfigError, match=device.name):
        resolve_dtypes(train(**keys), device)


@pytest.mark.parametrize(
    ("asked", "device", "name"), [("auto", HOPPER, B), ("auto", VOLTA, H), ("auto", CPU, F), (F, HOPPER, F)]
)
def test_inference_number_format(asked, device, name):
    args = get_infer_args({**BASE, "infer_dtype": asked})
    assert resolve_dtypes(args, device) == Dtypes(name, name, name, False)


def test_the_resolved_configuration_hides_secrets():
    shown = to_dict(
        train(hf_hub_token="hf_hidden", hub_token="also", swanlab_api_key="k", add_tokens="t", max_new_tokens=3)
    )
    assert "hf_hidden" not in json.dumps(shown)
    assert shown["training"]["hub_token"] == shown["swanlab"]["swanlab_api_key"] == "***"
    assert shown["model"]["add_tokens"] == "t" and shown["generating"]["max_new_tokens"] == 3
    assert shown["model"]["ms_hub_token"] is None


@pytest.mark.parametrize(
    ("keys", "room"),
    [
        ({"max_length": 50}, 30),  # of 50 tokens in all 20 are the prompt's
        ({"max_length": 50, "max_new_tokens": 7}, 7),
        ({"max_new_tokens": 7}, 7),
        ({}, 1024),
        ({"max_length": ""}, 1024),
    ],
)
def test_a_limit_that_is_given_alone_counts(keys, room):
    from llamafactory.chat.sampling import get_sampling

    assert get_sampling(get_infer_args({**BASE, **keys}), {}, 1000).new_tokens(20, None) == room
