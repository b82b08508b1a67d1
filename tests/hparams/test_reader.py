# SPDX-License-Identifier: Apache-2.0
"""Files, command lines and dicts: what is read from them, and the one line that a mistake gives."""

from __future__ import annotations

import json

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args, split_list
from llamafactory.hparams.reader import read_source

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a=1", "b=x=y"], {"a": "1", "b": "x=y"}),
        (["--a", "1", "--b=2", "--flag"], {"a": "1", "b": "2", "flag": True}),
        (["--learning-rate", "1e-4"], {"learning_rate": "1e-4"}),
        (["--max_steps", "-1", "--do_train"], {"max_steps": "-1", "do_train": True}),
        (["--report_to", "wandb", "mlflow", "seed=1"], {"report_to": ["wandb", "mlflow"], "seed": "1"}),
        (["--output_dir", "a folder/with = sign"], {"output_dir": "a folder/with = sign"}),
        (["fsdp_config.a.b=1", "fsdp_config.c=x"], {"fsdp_config": {"a": {"b": 1}, "c": "x"}}),
        (["--fsdp_config.min_num_params", "7"], {"fsdp_config": {"min_num_params": 7}}),
        (["--add_tokens=--x"], {"add_tokens": "--x"}),
    ],
)
def test_words(words, expected):
    assert read_source(words).values == expected


@pytest.mark.parametrize("ending", ["yaml", "yml", "json"])
def test_file_with_overrides(tmp_path, ending):
    file = tmp_path / f"a config.{ending}"
    values = {**BASE, "lora_rank": 4, "activation_checkpointing_kwargs": {"a": 1}}
    file.write_text(json.dumps(values))  # JSON is YAML too
    args = get_train_args([str(file), "lora_rank=16", "--seed", "7", "activation_checkpointing_kwargs.b=2"])
    assert (args.tuner.lora_rank, args.training.seed) == (16, 7)
    assert args.training.activation_checkpointing_kwargs == {"a": 1, "b": 2}
    assert args.keys["lora_rank"] == 16


def test_yaml_merge_keys_and_nested_mappings_are_read(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("dataset_dir: &d {x: {a: 1}}\nfsdp_config:\n  <<: *d\n  b: 2\n")
    assert read_source([str(file)]).values["fsdp_config"] == {"x": {"a": 1}, "b": 2}


BROKEN_FILES = {
    "missing": (None, "c.yaml: no such file"),
    "empty": (b"", "c.yaml: the file is empty"),
    "comments only": (b"# nothing\n", "c.yaml: the file is empty"),
    "list": (b"\n- a\n", "c.yaml:2: expected key: value lines"),
    "word": (b"hello\n", "c.yaml:1: expected key: value lines"),
    "tab": (b"a:\n\tb: 1\n", "c.yaml:2: not YAML: a tab; YAML indents with spaces"),
    "bracket": (b"a: 1\nb: [1, 2\n", "c.yaml:3: not YAML: "),
    "two colons": (b"a: b: c\n", "c.yaml:1: not YAML: "),
    "twice": (b"seed: 1\nx: 2\nseed: 3\n", "c.yaml:3: seed is given twice, first in line 1"),
    "twice inside": (b"fsdp_config:\n  a: 1\n  a: 2\n", "c.yaml:3: a is given twice, first in line 2"),
    "list as key": (b"? [a]\n: b\n", "c.yaml:1: keys are text, got a list or an object"),
    "number key": (b"1: 2\n", "c.yaml:1: keys are text, got '1'"),
    "latin-1": ("a: 1\nb: é\n".encode("latin-1"), "c.yaml:2: not UTF-8 text"),
    "python tag": (b"a: !!python/object/apply:os.system ['true']\n", "c.yaml:1: not YAML: could not determine"),
    "control byte": (b"a: \x00\n", "c.yaml: not YAML: "),
}


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_broken_yaml_is_one_line_with_file_and_line(tmp_path, monkeypatch, name):
    content, message = BROKEN_FILES[name]
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_source(["c.yaml"])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,}', "c.json:1: not JSON: "),
        ("[1]", "c.json:1: expected a JSON object"),
        ('{"a": 1, "a": 2}', "c.json: a is given twice"),
        ("", "c.json:1: not JSON: "),
    ],
)
def test_broken_json(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match="^" + message.replace("[", r"\[")):
        read_source(["c.json"])


def test_unreadable_places(tmp_path):
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        read_source([str(tmp_path / "folder.yaml")])
    with pytest.raises(ConfigError, match=r"cfg\.txt: unexpected file"):
        read_source(["cfg.txt"])
    with pytest.raises(ConfigError, match=r"model_name_or_path=saves/a\.gguf"):
        read_source(["saves/a.gguf"])
    with pytest.raises(ConfigError, match=r"stray: unexpected word"):
        read_source(["a=1", "stray"])
    with pytest.raises(ConfigError, match=r"deepspeed\.x: deepspeed is 'f\.json', not a mapping"):
        read_source(["deepspeed=f.json", "deepspeed.x=1"])


def test_unknown_key_names_the_nearest_and_the_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("model_name_or_path: m\nlerning_rate: 1\n")
    with pytest.raises(ConfigError, match=r"^c\.yaml:2: unknown key lerning_rate; did you mean learning_rate\?$"):
        get_train_args(["c.yaml"])
    with pytest.raises(ConfigError, match="unknown key qqqqqq; `llamafactory-cli train -h` lists all keys"):
        get_train_args({**BASE, "qqqqqq": 1})
    with pytest.raises(ConfigError, match=r"lora_rnak; did you mean lora_rank\?"):
        get_infer_args({**BASE, "lora_rnak": 1})
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    assert "lerning_rate" not in get_train_args(["c.yaml", "dataset=d"]).keys


def test_every_one_letter_slip_of_a_key_is_put_right():
    for key in (
        "learning_rate",
        "per_device_train_batch_size",
        "cutoff_len",
        "template",
        "num_train_epochs",
        "lora_target",
    ):
        for place in range(len(key)):
            with pytest.raises(ConfigError, match=rf"did you mean {key}\?"):
                get_train_args({**BASE, key[:place] + key[place + 1 :]: 1})


def test_split_list():
    assert split_list("a, b,,c ") == ["a", "b", "c"]
    assert split_list(None) == split_list("") == []
