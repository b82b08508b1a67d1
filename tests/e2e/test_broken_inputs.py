# SPDX-License-Identifier: Apache-2.0
"""Broken configurations and data files, through the command line: one clear line, exit code 1 or 2, no traceback."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory import cli

GOOD_ROW = {"instruction": "Hi", "output": "Hello."}


@dataclass
class Broken:
    """One mistake.

    Attributes:
        name: What is wrong.
        says: Texts that the one line must hold: the key or the file, and the value or the row.
        keys: Keys of the configuration that differ from a good one; None takes a key away.
        config: The whole text of the configuration, instead of keys.
        rows: Content of ``rows.json`` (or of ``file``), text or bytes as they stand, else JSON.
        file: Name of the data file.
        info: Content of dataset_info.json beside it.
        command: Words of the command line; ``{config}`` is the configuration's path.
        code: Exit code.
    """

    name: str
    says: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    rows: Any = field(default_factory=lambda: [GOOD_ROW])
    file: str = "rows.json"
    info: Any = None
    command: tuple[str, ...] = ("train", "{config}")
    code: int = 1


SETS = {"mine": {"file_name": "rows.json"}}
CASES = [
    # command and configuration file
    Broken("unknown command", ("trian", "train"), command=("trian", "{config}"), code=2),
    Broken("config missing", ("nothing.yaml",), command=("train", "nothing.yaml")),
    Broken("config empty", ("config.yaml",), config=""),
    Broken("config is a list", ("config.yaml",), config="- a\n- b\n"),
    Broken("config broken yaml", ("config.yaml:3", "not YAML"), config="stage: sft\ndataset: [a, b\nlr: 1\n"),
    Broken("config has a key twice", ("config.yaml", "stage"), config="stage: sft\nstage: pt\n"),
    Broken("override without a value", ("learning_rate",), command=("train", "{config}", "--learning_rate")),
    # keys
    Broken("unknown key", ("learning_rat", "learning_rate"), {"learning_rat": 1e-4}),
    Broken("text for a number", ("num_train_epochs", "many"), {"num_train_epochs": "many"}),
    Broken("fraction for a whole number", ("cutoff_len", "2.5"), {"cutoff_len": 2.5}),
    Broken("number for a switch", ("packing", "7"), {"packing": 7}),
    Broken("unknown choice", ("overlong", "cut", "truncate"), {"overlong": "cut"}),
    Broken("unknown stage", ("stage", "sfft", "sft"), {"stage": "sfft"}),
    Broken("part not built", ("mixture_of_depths", "convert", "not built"), {"mixture_of_depths": "convert"}, code=2),
    Broken("sharding alone", ("fsdp", "several processes", "NPROC_PER_NODE"), {"fsdp": "full_shard"}),
    Broken("towers of a text model", ("freeze_vision_tower", "text alone"), {"freeze_vision_tower": False}),
    Broken(
        "key of a part that is off",
        ("recompute_num_layers", "Megatron", "transformers below 5"),
        {"recompute_num_layers": 4},
        code=2,
    ),
    Broken("order of batches", ("dataloader_in_order", "not built"), {"dataloader_in_order": False}, code=2),
    Broken("nothing to reward answers", ("reward_model", "reward_funcs"), {"stage": "ppo"}),
    Broken("unknown tuner", ("finetuning_type", "lra", "lora"), {"finetuning_type": "lra"}),
    Broken("unknown template", ("template", "lama3", "llama3"), {"template": "lama3"}),
    Broken("template file missing", ("template", "none.jinja"), {"template": "./none.jinja"}),
    Broken("no model", ("model_name_or_path",), {"model_name_or_path": None}),
    Broken("model folder missing", ("model_name_or_path", "no/such/model"), {"model_name_or_path": "./no/such/model"}),
    Broken("gguf package missing", ("no_such_package",), {"model_name_or_path": "pkg://no_such_package/x.gguf"}),
    Broken("adapter missing", ("adapter_name_or_path", "nowhere"), {"adapter_name_or_path": "./nowhere"}),
    Broken("lora target unknown", ("lora_target", "quack", "q_proj"), {"lora_target": "quack"}),
    Broken("two masks", ("mask_history", "train_on_prompt"), {"mask_history": True, "train_on_prompt": True}),
    Broken("split without a set", ("val_size",), {"val_size": 0.1, "dataset": None, "eval_dataset": "{rows}"}),
    Broken("both precisions", ("bf16", "fp16"), {"bf16": True, "fp16": True}),
    Broken("output folder under a file", ("output_dir", "config.yaml"), {"output_dir": "{config}/out"}),
    Broken("resume from nothing", ("resume_from_checkpoint", "gone"), {"resume_from_checkpoint": "./gone"}),
    Broken("predict without generation", ("predict_with_generate",), {"do_predict": True, "do_train": False}),
    Broken("export nowhere", ("export_dir",), command=("export", "{config}")),
    # which set
    Broken("no data", ("dataset",), {"dataset": None}),
    Broken("set not listed", ("mien", "mine"), {"dataset": "mien", "dataset_dir": "{folder}"}, info=SETS),
    Broken("file missing", ("gone.json",), {"dataset": "{folder}/gone.json"}),
    Broken("listing missing", ("dataset_info.json",), {"dataset": "mine", "dataset_dir": "{folder}"}),
    Broken("listing broken", ("dataset_info.json", "1"), {"dataset": "mine", "dataset_dir": "{folder}"}, info="{"),
    Broken(
        "listing key unknown",
        ("dataset_info.json", "file_nam", "file_name"),
        {"dataset": "mine", "dataset_dir": "{folder}"},
        info={"mine": {"file_nam": "rows.json"}},
    ),
    Broken(
        "listed column missing",
        ("rows.json", "question"),
        {"dataset": "mine", "dataset_dir": "{folder}"},
        info={"mine": {"file_name": "rows.json", "columns": {"prompt": "question"}}},
    ),
    # files and rows
    Broken("empty file", ("rows.json", "empty"), rows=""),
    Broken("empty list", ("rows.json",), rows=[]),
    Broken("broken json", ("rows.json", "2"), rows='[{"instruction": "a", "output": "b"},\n{"instruction": }]'),
    Broken("broken json line", ("rows.jsonl", "2"), rows=f"{json.dumps(GOOD_ROW)}\n{{'a': 1}}\n", file="rows.jsonl"),
    Broken("not utf-8", ("rows.json", "UTF-8"), rows=b'[{"instruction": "a", "output": "\xff\xfe"}]'),
    Broken("row is no object", ("rows.json", "2"), rows=[GOOD_ROW, "text"]),
    Broken("answer is a number", ("rows.json", "2", "output"), rows=[GOOD_ROW, {"instruction": "Hi", "output": 7}]),
    Broken("unknown layout", ("rows.json", "foo"), rows=[{"foo": 1, "bar": 2}]),
    Broken("unknown file kind", ("rows.xyz",), rows="a", file="rows.xyz"),
    Broken(
        "role unknown",
        ("rows.json", "1", "robot"),
        rows=[{"conversations": [{"from": "robot", "value": "a"}, {"from": "gpt", "value": "b"}]}],
    ),
    Broken("no answer in any row", ("rows.json",), rows=[{"instruction": "Hi", "output": ""}]),
    Broken("too long", ("rows.json", "cutoff_len"), {"overlong": "error", "cutoff_len": 8}),
    Broken("parquet that is none", ("rows.parquet",), rows=b"PAR1 no", file="rows.parquet"),
    Broken("columns without names", ("rows.csv",), rows="1,2\n3,4\n", file="rows.csv"),
]


def write(case: Broken, folder: Path, model: Path) -> Path:
    """Write the data file, the listing and the configuration of a case."""
    data = folder / case.file
    if isinstance(case.rows, bytes):
        data.write_bytes(case.rows)
    else:
        data.write_text(case.rows if isinstance(case.rows, str) else json.dumps(case.rows))
    if case.info is not None:
        text = case.info if isinstance(case.info, str) else json.dumps(case.info)
        (folder / "dataset_info.json").write_text(text)
    path = folder / "config.yaml"
    good = {
        "model_name_or_path": str(model),
        "template": "chatml",
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "bf16": False,
        "dataset": str(data),
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "report_to": "none",
    }
    places = {"{config}": str(path), "{folder}": str(folder), "{rows}": str(data)}
    keys = {**good, **case.keys}
    for name, value in keys.items():
        for place, text in places.items():
            keys[name] = value = value.replace(place, text) if isinstance(value, str) else value
    # A key that is None is taken away: the mistake is that it is missing.
    path.write_text(
        case.config if case.config is not None else yaml.safe_dump({k: v for k, v in keys.items() if v is not None})
    )
    return path


def test_there_are_forty() -> None:
    assert len(CASES) >= 40 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_clear_line(
    case: Broken, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(case, tmp_path, tiny_llama)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["llamafactory-cli", *(word.replace("{config}", str(path)) for word in case.command)]
    )
    code = cli.main()
    errors = capfd.readouterr().err
    last = errors.rstrip().splitlines()[-1]
    assert code == case.code, errors
    assert last.startswith("error: ")
    assert "Traceback" not in errors
    for text in case.says:
        assert text in last, last
    assert not list((tmp_path / "out").glob("*.safetensors"))
