# SPDX-License-Identifier: Apache-2.0
"""Fields to a configuration and back; commands that are pasted into a real shell; what the page lets nobody do."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.reader import read_source
from llamafactory.hparams.schema import declared_keys
from llamafactory.webui.fields import configuration, presets, validation
from llamafactory.webui.fields.configuration import (
    build,
    check,
    command_of,
    of_model,
    save_folder,
    to_command,
    to_values,
    to_yaml,
)
from llamafactory.webui.fields.fields import COMMON, fields_on
from llamafactory.webui.workspace import check_name, inside, relative

TABS = ("train", "eval", "infer", "export")
REPOSITORY = Path(__file__).parents[2]
HOSTILE = [
    "$(touch ran)", "`touch ran`", "; touch ran;", "'; touch ran; '", '"; touch ran; "', "a\ntouch ran\n",
    "&& touch ran", "| touch ran", "> ran", "x' $(touch ran) 'y", "\\'; touch ran; \\'", "!touch", "~/x", "*", "{a,b}",
    "\x1b[201~touch ran\n", "\x03touch ran\n", "\x16\x03", "\x15touch ran\r", "a\\", "-rf", "a=b", "日本 語",
    "\u202etouch ran", "\x7f\x08touch ran\n", "\U0001f600 '", "#",
    "\t", "\u2028touch ran", "\x9b31m", "$'\\n'touch ran",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_workspace(tmp_path, monkeypatch):
    folder = tmp_path / "workspace"
    shutil.copytree(REPOSITORY / "data", folder / "data")
    monkeypatch.chdir(folder)
    monkeypatch.delenv(validation.REMOTE_CODE, raising=False)
    return folder


# ---- from fields to keys ----


def test_the_first_page_trains_the_demo_data_as_it_is():
    config = build("train", {name: field.default for name, field in COMMON.items()})
    assert config == build("train", {})
    assert config["dataset"] == "alpaca_en_demo" and config["template"] == "smollm2"
    assert check("train", config) == []
    args = get_train_args(config)
    assert args.finetuning.stage == "sft" and args.finetuning.finetuning_type == "lora" and args.training.do_train
    # What a run chooses best is left to it.
    assert not {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "logging_steps"} & set(config)


@pytest.mark.parametrize("tab", TABS)
def test_every_tab_is_valid_as_it_opens(tab):
    assert check(command_of(tab, {}), build(tab, {}) | ({"export_dir": "out"} if tab == "export" else {})) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"train.compute_type": "bf16"}, {"bf16": True}),
        ({"train.compute_type": "fp32"}, {"bf16": False}),
        ({"train.compute_type": "pure_bf16"}, {"pure_bf16": True}),
        ({"top.booster": "flashattn2"}, {"flash_attn": "fa2"}),
        ({"top.booster": "liger_kernel"}, {"enable_liger_kernel": True}),
        ({"train.use_pissa": True}, {"pissa_init": True, "pissa_convert": True}),
        ({"train.batch_size": 3}, {"per_device_train_batch_size": 3}),
        ({"train.learning_rate": "5e-5"}, {"learning_rate": 5e-5}),  # the key's default, but a run would choose another
        ({"train.neftune_alpha": 5}, {"neftune_noise_alpha": 5}),
        ({"train.val_size": 0.1}, {"val_size": 0.1, "eval_strategy": "steps", "eval_steps": 100}),
        ({"train.dataset": ["identity", "alpaca_zh_demo"]}, {"dataset": "identity,alpaca_zh_demo"}),
        ({"train.report_to": ["tensorboard", "trackio"]}, {"report_to": ["tensorboard", "trackio"]}),
        ({"top.quantization_bit": "4"}, {"quantization_bit": 4}),
        ({"train.adam_beta2": 0.95}, {"adam_beta2": 0.95}),
        ({"train.extra_args": '{"optim": "adamw_torch", "lora_rank": 4}', "train.lora_rank": 64},
         {"optim": "adamw_torch", "lora_rank": 4}),
        ({"top.model_name": "Qwen3-VL-2B-Instruct", "top.model_path": "Qwen/Qwen3-VL-2B-Instruct",
          "train.image_max_pixels": "512*512"}, {"image_max_pixels": 262144}),
        ({"train.output_dir": "train_1"}, {"output_dir": "saves/SmolLM2-135M-Instruct-GGUF/lora/train_1"}),
        ({"train.output_dir": "saves/mine"}, {"output_dir": "saves/mine"}),
        ({"top.checkpoint_path": ["a", "saves/other/b"]},
         {"adapter_name_or_path": "saves/SmolLM2-135M-Instruct-GGUF/lora/a,saves/other/b"}),
        ({"top.checkpoint_path": ["run"], "top.finetuning_type": "full"},
         {"model_name_or_path": "saves/SmolLM2-135M-Instruct-GGUF/full/run"}),
        ({"train.training_stage": "dpo", "train.pref_loss": "simpo"}, {"stage": "dpo", "pref_loss": "simpo"}),
        ({"top.hub_name": "modelscope", "top.model_name": "Gemma-2B", "top.model_path": ""},
         {"hub": "modelscope", "model_name_or_path": "AI-ModelScope/gemma-2b"}),
        ({"top.model_name": "", "top.model_path": "./mine"}, {"model_name_or_path": "./mine"}),
        ({"top.model_name": "owner/model", "top.model_path": ""}, {"model_name_or_path": "owner/model"}),
    ],
)  # fmt: skip
def test_what_fields_say(values, expected):
    config = build("train", values)
    assert {key: config.get(key) for key in expected} == expected


def test_the_hub_is_written_where_the_environment_says_another(monkeypatch):
    assert "hub" not in build("train", {})
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1")
    assert build("train", {})["hub"] == "huggingface"


def test_kinds_of_evaluation():
    predict = build("eval", {"eval.output_dir": "eval_1"})
    assert predict["do_predict"] and predict["predict_with_generate"] and predict["eval_dataset"] == "sums_demo"
    assert "task" not in predict and predict["max_new_tokens"] == 512
    loss = build("eval", {"eval.kind": "loss"})
    assert loss["do_eval"] and not {"do_predict", "max_new_tokens", "predict_with_generate"} & set(loss)
    bench = {"eval.kind": "benchmark", "eval.task": "basics_test", "eval.output_dir": "bench", "eval.batch_size": 8}
    config = build("eval", bench)
    assert command_of("eval", bench) == "eval" and check("eval", config) == []
    assert config["task"] == "basics_test" and config["batch_size"] == 8
    assert config["save_dir"].endswith("lora/bench") and not {"eval_dataset", "output_dir", "cutoff_len"} & set(config)


def test_a_benchmark_without_a_name_is_still_one():
    config = build("eval", {"eval.kind": "benchmark", "eval.task": "", "eval.batch_size": 2})
    assert "task" not in config and build("eval", to_values(config, "eval")) == config


def test_a_model_that_is_chosen_fills_path_and_template():
    assert of_model("Qwen3-8B-Base") == {"top.model_path": "Qwen/Qwen3-8B-Base", "top.template": "qwen3"}
    assert of_model("Gemma-2B", "modelscope")["top.model_path"] == "AI-ModelScope/gemma-2b"
    assert of_model("./mine") == {}


@pytest.mark.parametrize("path", ["/", "..", "../../etc", "a/..", "C:\\x\\..", "", "x/.gguf"])
def test_the_folder_of_a_model_s_runs_is_below_saves(path):
    folder = save_folder({"top.model_name": "", "top.model_path": path})
    assert inside(folder).is_relative_to(Path("saves").resolve())


def interesting(field) -> st.SearchStrategy:
    """Values of one field that the page can have."""
    if field.widget == "switch":
        return st.booleans()
    if field.widget == "choice" and field.choices:
        return st.sampled_from([choice for choice in field.choices if choice])
    if field.widget == "multi":
        return st.lists(st.sampled_from(field.choices or ("identity", "alpaca_zh_demo")), max_size=2, unique=True)
    if field.widget in ("number", "slider"):
        low = 0 if field.low is None else int(field.low)
        return st.integers(low + 1, low + 50)
    return st.just(field.default)


@pytest.mark.parametrize("tab", TABS)
def test_a_configuration_s_fields_make_the_same_configuration(tab):
    """What the page shows of a run, loaded again, is that run."""
    fields = [*fields_on("top").values(), *fields_on(tab).values()]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def there_and_back(data):
        chosen = data.draw(st.lists(st.sampled_from(fields), max_size=12, unique_by=lambda field: field.id))
        values = {field.id: data.draw(interesting(field)) for field in chosen}
        config = build(tab, values)
        assert build(tab, to_values(config, tab)) == config

    there_and_back()


@pytest.mark.parametrize("tuner", COMMON["top.finetuning_type"].choices)
def test_what_depends_on_a_field_without_effect_has_none(tuner):
    """A key behind a switch that this tuner leaves aside, or behind bits that it cannot use, is not said."""
    fields = [*fields_on("top").values(), *fields_on("train").values()]
    numbers = {field.id: int(field.low or 0) + 2 for field in fields if field.widget in ("number", "slider")}
    switches = {field.id: True for field in fields if field.widget == "switch"}
    chosen = {"top.finetuning_type": tuner, "top.quantization_bit": "4", "top.quantization_method": "hqq"}
    config = build("train", numbers | switches | chosen)
    assert build("train", to_values(config, "train")) == config
    assert "apollo_rank" not in config or config["use_apollo"]
    assert "quantization_method" not in config or config["quantization_bit"] == 4


@pytest.mark.parametrize("path", presets.example_files())
def test_an_example_opened_in_the_page_is_the_same_run(path):
    """Every key of the file is obeyed: what stands on the page gives the arguments that the file gives."""
    _, keys = presets.load_example(path)
    again = build("train", to_values(keys, "train")) | {"output_dir": "out"}
    original = dict(keys) | {"output_dir": "out"}
    read = get_train_args if "dataset" in keys and "task" not in keys else get_infer_args
    assert {**vars(read(again)), "keys": 0} == {**vars(read(original)), "keys": 0}


# ---- the file and the command ----


def test_the_file_says_what_the_fields_say():
    config = build("train", {"train.val_size": 0.1, "train.extra_args": '{"default_system": "a: b\\n#c \'\\"日本"}'})
    text = to_yaml(config)
    assert yaml.safe_load(text) == config and "### model" in text and "### training" in text
    Path("run.yaml").write_text(text)
    assert read_source(["run.yaml"]).values == config


@pytest.mark.parametrize("value", HOSTILE)
def test_the_file_holds_any_text(value):
    assert yaml.safe_load(to_yaml({"default_system": value, "dataset": value})) == {
        "default_system": value,
        "dataset": value,
    }


def argv_of(command: str, folder: Path) -> list[str]:
    """What a real bash hands to ``llamafactory-cli`` when a command is pasted."""
    script = f"llamafactory-cli() {{ printf '%s\\0' \"$@\" > argv; }}\n{command}\n"
    subprocess.run(["bash", "--norc"], input=script.encode(), cwd=folder, check=True, capture_output=True, timeout=20)
    return (folder / "argv").read_bytes().decode().split("\0")[:-1]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_pasted_command_runs_nothing_else(value, in_workspace):
    before = set(os.listdir())
    words = argv_of(to_command("train", {"dataset": value, "default_system": value}), in_workspace)
    assert words == ["train", f"dataset={value}", f"default_system={value}"]
    words = argv_of(to_command("train", f"{value}.yaml"), in_workspace)
    assert words == ["train", f"{value}.yaml"]
    assert set(os.listdir()) - before == {"argv"}


def test_a_command_pasted_into_a_terminal_runs_nothing_else(in_workspace):
    """Through a terminal, where control characters act while they are read: ^C, ^V, backspace, escape sequences."""
    before = set(os.listdir())
    lines = [to_command("train", {"dataset": value}) for value in HOSTILE]
    main, terminal = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=terminal, stdout=terminal, stderr=terminal, cwd=in_workspace,
        start_new_session=True, close_fds=True, env={**os.environ, "PS1": "", "HISTFILE": ""},
    )  # fmt: skip
    os.close(terminal)
    prepare = "llamafactory-cli() { printf '%s\\0' \"$@\" >> argv; }; set +H\n"
    for line in [prepare, *(f"{line}\n" for line in lines), "exit\n"]:
        os.write(main, line.encode())
    out = b""
    try:
        while chunk := os.read(main, 65536):
            out += chunk
    except OSError:  # the shell has gone
        pass
    shell.wait(timeout=20)
    os.close(main)
    words = (in_workspace / "argv").read_bytes().decode().split("\0")[:-1]
    assert words == [word for value in HOSTILE for word in ("train", f"dataset={value}")], out[-2000:]
    assert set(os.listdir()) - before == {"argv"}


def test_a_command_of_keys_is_read_as_those_keys():
    config = {
        "model_name_or_path": "m", "dataset": "a,b", "learning_rate": 1e-5, "bf16": True,
        "lr_scheduler_kwargs": {"a": 1}, "report_to": ["tensorboard", "trackio"],
        "val_size": 0.1, "template": "qwen", "enable_thinking": None,
    }  # fmt: skip
    words = subprocess.run(
        ["bash", "-c", f'llamafactory-cli() {{ printf "%s\\0" "$@"; }}; {to_command("train", config)}'],
        capture_output=True, check=True,
    ).stdout.decode().split("\0")[:-1]  # fmt: skip
    read = read_source(words[1:]).values
    assert {key: declared_keys()[key].read(read[key]) for key in config} == config


def test_secrets_are_shown_nowhere():
    config = {"hf_hub_token": "hf_abcdefgh", "model_name_or_path": "m"}
    assert "hf_abcdefgh" not in to_yaml(config) + to_command("train", config)
    assert [key for key, _ in check("train", config)] == ["hf_hub_token"]


# ---- checks ----


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"train.learning_rate": "fast"}, "learning_rate"),
        ({"train.num_train_epochs": "-1"}, "num_train_epochs"),
        ({"train.train_seed": "1.5"}, "seed"),
        ({"train.max_samples": "0"}, "max_samples"),
        ({"train.dataset": ["no_such_set"]}, "dataset"),
        ({"train.dataset": []}, "dataset"),
        ({"train.cutoff_len": 1}, "cutoff_len"),
        ({"train.extra_args": '{"lora_rnk": 4}'}, None),
        ({"train.extra_args": '{"loss_typ": "x", "max_steps": "many"}'}, "max_steps"),
        ({"top.model_path": "", "top.model_name": ""}, "model_name_or_path"),
        ({"train.training_stage": "ppo"}, "reward_model"),
        ({"train.reward_funcs": "../evil.py:f", "train.training_stage": "grpo"}, "reward_funcs"),
        ({"top.finetuning_type": "full", "train.use_galore": True, "train.use_badam": True}, "use_galore"),
    ],
)  # fmt: skip
def test_mistakes_are_named_at_their_field(values, key):
    found = check("train", build("train", values))
    assert found and found[0][0] == key and "\n" not in found[0][1]
    assert all(message and len(message) < 600 for _, message in found)


def test_all_wrong_values_are_named_at_once():
    values = {"train.learning_rate": "x", "train.train_seed": "y", "train.adam_beta1": "z"}
    assert [key for key, _ in check("train", build("train", values))] == ["learning_rate", "seed", "adam_beta1"]


def test_further_arguments_that_are_no_object():
    for text in ("[]", "{", "1", "x" * 2**20, "[" * 100_000):
        with pytest.raises(ConfigError, match="extra_args: expected a JSON object"):
            build("train", {"train.extra_args": text})


# ---- the workspace: S11, S8 ----


def places(workspace: Path) -> list[str]:
    outside = workspace.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "rows.json").write_text('[{"instruction": "a", "output": "b"}]')
    (outside / "dataset_info.json").write_text('{"rows": {"file_name": "rows.json"}}')
    link = workspace / "link"
    if not link.exists():
        link.symlink_to(outside)
    return [
        "../outside", "../outside/rows.json", str(outside), f"{outside}/rows.json", "link", "link/rows.json",
        "data/../../outside/rows.json", "/etc/passwd", "~/x", "a\0b", "a\nb", "x" * 2**20, "./../outside/rows.json",
        "data/\r", "file:///etc/passwd", "/proc/self/environ", "//etc/passwd",
    ]  # fmt: skip


PATH_KEYS = [*validation.PATHS, "dataset", "eval_dataset"]


@pytest.mark.parametrize("key", PATH_KEYS)
def test_no_path_leads_out_of_the_workspace(key, in_workspace):
    for place in places(in_workspace):
        sets = key in ("dataset", "eval_dataset")
        if (place.startswith("file://") and not sets) or (place == "data/\r" and sets):
            continue  # a folder called "file:" in the workspace; a list whose words are stripped
        config = build("train", {}) | {key: place}
        if key == "eval_dataset":
            config["eval_strategy"] = "steps"
        found = check("train", config)
        assert found, (key, place[:50])
        assert any(where == key for where, _ in found) or place.startswith("~"), (key, place[:50], found)
        assert all(len(message) < 1000 for _, message in found)


def test_every_key_that_names_a_place_is_looked_at():
    """A key whose name or meaning speaks of a folder or a file is in one of the lists, or said here to be none."""
    words = ("folder", "file", "path", "dir")
    known = {*validation.PATHS, *validation.PERHAPS, *validation.MODELS, "dataset", "eval_dataset"}
    named = {
        key
        for key, declared in declared_keys().items()
        if declared.takes_text
        and any(word in f"{key} {declared.help}".lower().replace("profile", "") for word in words)
    }
    others = {
        "columns": "names of columns", "swanlab_api_key": "refused", "peft_config": "a mapping, looked into",
        "ray_init_kwargs": "a mapping, looked into", "hub_model_id": "a repository", "tool_format": "a name",
        "swanlab_run_name": "a name", "task": "names; its folder is task_dir", "push_to_hub": "a switch",
        "liger_kernel_config": "a mapping", "export_gguf": "types", "freeze_trainable_pattern": "a pattern",
    }  # fmt: skip
    assert sorted(named - known - set(others)) == []


def test_entries_of_a_listing_lead_nowhere_else(in_workspace):
    """A listing that somebody put into the workspace may name any file."""
    places(in_workspace)
    mine = in_workspace / "mine"
    mine.mkdir()
    (mine / "dataset_info.json").write_text(
        '{"evil": {"file_name": "/etc/passwd"}, "up": {"file_name": "../../outside/rows.json"}}'
    )
    for name in ("evil", "up"):
        found = check("train", build("train", {}) | {"dataset_dir": "mine", "dataset": name})
        assert found and found[0][0] == "dataset" and "outside of the workspace" in found[0][1]
    mapping = {"evil": {"file_name": "/etc/passwd"}}
    assert check("train", build("train", {}) | {"dataset_dir": mapping, "dataset": "evil"})
    for address in ("local:///etc/passwd", "simplecache::file:///etc/passwd", "http://127.0.0.1/x.json"):
        found = check("train", build("train", {}) | {"dataset": address})
        assert found and found[0][0] == "dataset", address


def test_paths_inside_mappings_are_looked_at():
    config = build("train", {}) | {"vllm_config": {"download_dir": "/tmp/x"}}
    assert [key for key, _ in check("train", config)] == ["vllm_config"]


@pytest.mark.parametrize("text", ['{"download_dir": "/tmp/x"}', r'{"download_dir": "\u002ftmp"}', '{a: ["../../x"]}'])
def test_paths_inside_texts_that_are_read_later_are_looked_at(text):
    assert [key for key, _ in check("train", build("train", {}) | {"vllm_config": text})] == ["vllm_config"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train.output_dir", "\ud800"), ("train.output_dir", "x" * 300), ("train.dataset_dir", "x" * 300),
    ],
)  # fmt: skip
def test_names_that_no_file_can_have_are_one_line(field, value, in_workspace):
    found = check("train", build("train", {"train.output_dir": "a"} | {field: value}))
    assert len(found) == 1 and "\n" not in found[0][1] and len(found[0][1]) < 300


@pytest.mark.parametrize("text", ["9" * 5000, '{"a": ' + "9" * 5000 + "}", "[" * 100_000])
def test_numbers_and_nests_that_python_does_not_read_are_one_line(text):
    with pytest.raises(ConfigError, match=r"^extra_args: "):
        build("train", {"train.extra_args": text})
    config = build("infer", {}) | {"vllm_config": text}
    assert len(check("chat", config)) == 1


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("train.cutoff_len: {a: 1}", "train.cutoff_len: expected a number, got dict"),
        ("train.dataset: 5", "train.dataset: expected a list, got int"),
        ("train.neat_packing: perhaps", "train.neat_packing: expected true or false, got str"),
        ("train.learning_rate: &a [*a]", "train.learning_rate: expected text or a number, got list"),
        ("train.learning_rate: 2026-01-01", "train.learning_rate: expected text or a number, got date"),
        ("train.extra_args: [" + "[" * 3000 + "]" * 3001, "config_path"),
    ],
)
def test_a_saved_configuration_that_was_written_by_hand_is_looked_at(written, said, in_workspace):
    (in_workspace / "llamaboard_config").mkdir()
    (in_workspace / "llamaboard_config" / "mine.yaml").write_text(written)
    with pytest.raises(ConfigError) as error:
        configuration.load_preset("mine")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_honest_places_are_taken(in_workspace):
    config = build("train", {}) | {
        "output_dir": "saves/x",
        "tokenized_path": "cache/tokens",
        "dataset": "data/identity.json",
    }
    assert check("train", config) == []
    assert check("train", config | {"output_dir": str(in_workspace / "saves" / "y")}) == []
    assert check("train", config | {"default_system": "/no_think ../x\n"}) == []
    assert check("train", config | {"model_name_or_path": "/models/llama"}) == []  # read, never written


@pytest.mark.parametrize(
    "more",
    [
        {"trust_remote_code": True}, {"trust_remote_code": "yes"}, {"vllm_config": {"trust_remote_code": True}},
        {"vllm_config": '{"trust_remote_code": true}'}, {"sglang_config": {"trust-remote-code": 1}},
        {"vllm_config": r'{"trust_remote\u005fcode": true}'},
        {"sglang_config": {"trust-remote": True}}, {"sglang_config": r'{"tp": "\u002d-trust-remote"}'},
        {"vllm_config": {"hf": r'{"trust_remote\u005fcode": 1}'}}, {"vllm_config": r'{"trust\x5fremote_code": yes}'},
    ],
)  # fmt: skip
def test_code_beside_a_model_needs_a_server_that_was_started_for_it(more, monkeypatch):
    config = build("train", {}) | more
    found = check("train", config)
    assert [key for key, _ in found] == list(more) and validation.REMOTE_CODE in found[0][1]
    assert check("train", build("train", {}) | {"trust_remote_code": False}) == []
    monkeypatch.setenv(validation.REMOTE_CODE, "1")
    assert check("train", config) == [] or "trust" not in str(check("train", config))


# ---- every field, with what people who mean harm type ----


TYPED = ["$(touch ran)`touch ran`;touch ran", "../../outside", "a\0b", "x" * 2**20, "'\"\n; touch ran #", "<script>"]


def harmless(workspace: Path, before: set[Path]) -> bool:
    """Nothing was run, and nothing was written: not in the workspace, nor beside it."""
    return set(workspace.parent.rglob("*")) == before


@pytest.mark.parametrize("tab", TABS)
@pytest.mark.parametrize(
    "typed", [pytest.param(text, marks=[pytest.mark.slow] * (len(text) > 1000), id=repr(text[:20])) for text in TYPED]
)
def test_every_field_at_once(tab, typed, in_workspace):
    """Each key that does not take the text says so in a line of its own."""
    before = set(in_workspace.parent.rglob("*"))
    fields = [*fields_on("top").values(), *fields_on(tab).values()]
    values = {field.id: [typed] if field.widget == "multi" else typed for field in fields if field.name != "extra_args"}
    with contextlib.suppress(ConfigError):
        build(tab, values | {f"{tab}.extra_args": typed})
    config = build(tab, values)
    found = check(command_of(tab, values), config)
    assert found and all("\n" not in message and len(message) < 1000 for _, message in found)
    numbers = {key for key, value in config.items() if value == typed and not declared_keys()[key].takes_text}
    assert numbers <= {key for key, _ in found}
    assert len(typed) > 1000 or (to_yaml(config) and to_command("train", config))
    assert harmless(in_workspace, before)


@pytest.mark.slow
@pytest.mark.parametrize("typed", TYPED, ids=lambda text: repr(text[:20]))
def test_every_field_alone(typed, in_workspace):
    before = set(in_workspace.parent.rglob("*"))
    fine = []
    for tab in TABS:
        for field in fields_on(tab).values():
            value = [typed] if field.widget == "multi" else typed
            config: dict = {}
            try:
                config = build(tab, {field.id: value})
                found = check(command_of(tab, {}), config)
            except ConfigError as error:
                found = [(None, str(error))]
            assert all("\n" not in message and len(message) < 1000 for _, message in found), field.id
            fine += [] if found or config.get(field.key) is None else [field.key]  # what is off writes nothing
    # What is left takes any text by its meaning: names, system texts, patterns, hub ids; none of them is a place.
    assert not set(fine) & {*validation.PATHS, "dataset", "eval_dataset"} or ".." not in typed
    assert harmless(in_workspace, before)


# ---- names and presets ----


@pytest.mark.parametrize(
    "name",
    ["", " ", "../x", "/etc/x", "a/b", "a\\b", ".hidden", "-rf", "a\0b", "a\nb", "x" * 300, "$(touch ran)", "a;b",
     "a|b", "..", "link/../x", "日" * 100, "con:x", "*", "~"],
)  # fmt: skip
def test_names_that_are_no_names(name, in_workspace):
    before = sorted(path for path in in_workspace.parent.rglob("*"))
    for call in (check_name, lambda one: configuration.save_preset(one, {}), configuration.load_preset):
        with pytest.raises(ConfigError) as caught:
            call(name)
        assert len(str(caught.value)) < 300
    assert sorted(path for path in in_workspace.parent.rglob("*")) == before


def test_presets_are_saved_and_loaded(in_workspace):
    values = {"train.lora_rank": 32, "train.dataset": ["identity"], "top.model_name": "Qwen3-8B-Base", "evil.field": 1}
    path = configuration.save_preset("My preset_1.0", values)
    assert path == in_workspace.resolve() / "llamaboard_config" / "My preset_1.0.yaml"
    assert configuration.load_preset("My preset_1.0") == {
        key: value for key, value in values.items() if key != "evil.field"
    }
    os.utime(path, (1, 1))
    configuration.save_preset("newer", {})
    assert configuration.list_presets() == ["newer", "My preset_1.0"]
    assert os.listdir("llamaboard_config") and not [
        name for name in os.listdir("llamaboard_config") if name.startswith(".")
    ]


def test_files_that_llama_board_saved_are_read():
    """Ids and words as LLaMA Board 0.9 writes them (inventory, 9.2)."""
    Path("llamaboard_config").mkdir()
    saved = {
        "top.finetuning_type": "freeze", "train.training_stage": "DPO", "train.learning_rate": "5e-5",
        "train.compute_type": "bf16", "train.batch_size": 2,
        "train.freeze_trainable_layers": 3, "train.neftune_alpha": 0, "train.ds_stage": "none",
        "train.extra_args": '{"optim": "adamw_torch"}', "top.quantization_bit": "none",
    }  # fmt: skip
    Path("llamaboard_config/old.yaml").write_text(yaml.safe_dump(saved))
    values = configuration.load_preset("old")
    assert values["train.training_stage"] == "dpo" and "train.ds_stage" not in values
    config = build("train", values)
    assert config["stage"] == "dpo" and config["learning_rate"] == 5e-5 and config["bf16"] is True
    assert (
        config["optim"] == "adamw_torch"
        and config["freeze_trainable_layers"] == 3
        and config["per_device_train_batch_size"] == 2
    )


def test_broken_presets_are_one_line(in_workspace):
    folder = Path("llamaboard_config")
    folder.mkdir()
    for name, content in (
        ("list", b"[1]"),
        ("cut", b"{a: "),
        ("bytes", b"\xff\xfe\0"),
        ("code", b"!!python/object/apply:os.system [ls]"),
    ):
        (folder / f"{name}.yaml").write_bytes(content)
    (folder / "large.yaml").write_bytes(b"a: b\n" * 2**19)
    (folder / "away.yaml").symlink_to("/etc/passwd")
    for name in ("list", "cut", "bytes", "code", "large", "away", "missing"):
        with pytest.raises(ConfigError) as caught:
            configuration.load_preset(name)
        assert "\n" not in str(caught.value) and "root:" not in str(caught.value)


def test_examples_come_with_a_checkout(monkeypatch, tmp_path):
    files = configuration.example_files()
    assert files[0] == "quickstart.yaml" and len(files) > 50
    text, keys = configuration.load_example("quickstart.yaml")
    assert "\n# What `make quickstart` runs" in text and keys["lora_rank"] == 16
    for path in ("../pyproject.toml", "/etc/passwd", "quickstart.yaml/../../README.md", "nothing.yaml"):
        with pytest.raises(ConfigError, match="is none of the examples"):
            configuration.load_example(path)
    monkeypatch.setattr(presets, "_CHECKOUT", tmp_path)
    assert configuration.example_files() == []


def test_paths_as_users_write_them(in_workspace):
    assert relative(in_workspace / "data" / "identity.json") == "data/identity.json" == relative("data/./identity.json")
    assert inside(".") == in_workspace.resolve()


def test_a_loop_of_links_is_no_path(in_workspace):
    (in_workspace / "a").symlink_to("b")
    (in_workspace / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="output_dir"):
        inside("a/x", "output_dir")


def test_checks_need_no_torch():
    code = (
        "import sys; from llamafactory.webui.fields.configuration import build, check\n"
        "check('train', build('train', {})); "
        "print([n for n in ('torch', 'transformers', 'datasets') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stdout + done.stderr
