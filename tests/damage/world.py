# SPDX-License-Identifier: Apache-2.0
"""A folder of everything that commands open, made by tiny real runs; and one command after another in it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llamafactory import cli
from tests import media_models
from tests.train.rollouts import REWARDS

from . import further
from .damages import twin

ROWS = [{"instruction": f"who are you {number}", "output": "a small model " * (1 + number % 3)} for number in range(12)]
PAIRS = [{"prompt": f"name a river {number}", "chosen": "rain", "rejected": "fox fox"} for number in range(8)]
TOOLS = '''
def add(first: int, second: int) -> int:
    """Add two numbers.

    Args:
        first: One.
        second: The other.
    """
    return first + second
'''


@dataclass(frozen=True)
class Command:
    """A command and the files that it opens.

    Attributes:
        words: Of the command line; the working folder is the world.
        opens: Patterns of files in the world.
        typed: What is typed into it.
        slow: Too slow for every day.
    """

    words: tuple[str, ...]
    opens: tuple[str, ...]
    typed: str = ""
    slow: bool = False


TRAIN = (
    "train", "model_name_or_path=base", "template=chatml", "bf16=false", "max_steps=1", "save_strategy=no",
    "per_device_train_batch_size=2", "disable_tqdm=true", "report_to=none", "use_cpu=true",
    "dataset_dir=data", "plot_loss=false", "output_dir=out",
)  # fmt: skip
SFT = (*TRAIN, "dataset=data/rows.jsonl", "stage=sft")
DPO = (*TRAIN, "stage=dpo", "dataset=pairs", "cache_ref_log_probs=true")
PREPARE = ("preprocess", *TRAIN[1:], "tokenized_path=new")
GRPO = (
    *TRAIN, "stage=grpo", "dataset=data/rows.jsonl", "max_new_tokens=4", "num_generations=2",
    "reward_funcs=rewards.py:vowels",
)  # fmt: skip
INFER = (
    "infer", "model_name_or_path=base", "template=chatml", "dataset=data/rows.jsonl", "max_samples=2", "use_cpu=true",
    "max_new_tokens=2", "save_name=answers.jsonl", "dataset_dir=data",
)  # fmt: skip
EVAL = ("eval", "model_name_or_path=base", "task_dir=tasks", "n_shot=1", "save_dir=results")
EXPORT = ("export", "model_name_or_path=base", "template=chatml", "export_dir=merged")
STREAM = (
    *TRAIN, "streaming=true", "dataset=data/rows.json", "output_dir=stream", "max_steps=3",
    "save_strategy=steps", "save_steps=1",
)  # fmt: skip
QUANTIZED = (
    *EXPORT, "export_quantization_bit=4", "export_quantization_method=gptq",
    "export_quantization_dataset=data/rows.json", "export_quantization_nsamples=4", "export_quantization_group_size=32",
    "export_dir=quantized",
)  # fmt: skip
RUN = (*SFT, "output_dir=run", "max_steps=3", "save_strategy=steps", "save_steps=1")
QUICK = ("jsonl", "json", "parquet")
COMMANDS = {
    "train": Command(SFT, ("base/*", "data/rows.jsonl")),
    "train-yaml": Command(("train", "config.yaml"), ("config.yaml",)),
    "train-json": Command(("train", "config.json"), ("config.json",)),
    "train-adapter": Command((*SFT, "adapter_name_or_path=adapter"), ("adapter/*",)),
    "train-full": Command((*SFT, "finetuning_type=full"), ("base/*.json",)),
    "train-gguf": Command((*SFT, "model_name_or_path=base.gguf", "cache_dir=gguf"), ("base.gguf",)),
    "train-gguf-cache": Command(
        (*SFT, "model_name_or_path=base.gguf", "cache_dir=gguf"), ("gguf/gguf/*/*",), slow=True
    ),
    "infer-media": Command(
        (*INFER[:1], "model_name_or_path=media", *INFER[2:], "dataset=data/pictures.jsonl", "save_name=seen.jsonl"),
        ("media/*", "data/picture.png"),
    ),
    "infer-sound": Command(
        (*INFER[:1], "model_name_or_path=ears", *INFER[2:], "dataset=data/sounds.jsonl", "save_name=heard.jsonl"),
        ("ears/*config.json", "data/tone.wav", "data/sounds.jsonl"),
    ),
    "train-listed": Command((*TRAIN, "dataset=listed"), ("data/dataset_info.json",)),
    **{
        f"prepare-{file.removeprefix('rows.')}": Command((*PREPARE, f"dataset=data/{file}"), (f"data/{file}",))
        for file in (
            "rows.json", "rows.csv", "rows.tsv", "rows.xlsx", "rows.parquet", "rows.arrow", "feather.arrow",
            "rows.jsonl.gz", "rows.jsonl.zst",
        )
    },
    "prepare-txt": Command((*PREPARE, "stage=pt", "dataset=data/rows.txt"), ("data/rows.txt",)),
    **{
        f"train-{name}": Command((*SFT, f"model_name_or_path={name}"), (f"{name}/{files}",), slow=name != "parts")
        for name, files in (("parts", "model*"), ("pickle", "*.bin"), ("pickles", "*.bin*"))
    },
    "train-adapter-pickle": Command(
        (*SFT, "adapter_name_or_path=adapter-pickle"), ("adapter-pickle/adapter*",), slow=True
    ),
    **{
        f"preview-{name}": Command(("preview", *SFT[1:], f"model_name_or_path={name}"), (f"{name}/{files}",))
        for name, files in (("gpt2", "*.[jt]*"), ("pieces", "token*"))
    },
    **{
        f"stream-{kind}": Command(
            (*TRAIN, "streaming=true", f"dataset=data/rows.{kind}"), (f"data/rows.{kind}",), slow=kind not in QUICK
        )
        for kind in (*QUICK, "csv", "arrow", "jsonl.gz")
    },
    "stream-resume": Command(STREAM, ("stream/checkpoint-2/stream-*.json",), slow=True),
    "stream-cache": Command(
        (*TRAIN, "streaming=true", "dataset=data/rows.json"), ("cache/llamafactory/rows-*/*",), slow=True
    ),
    "train-cache": Command((*SFT, "data_shared_file_system=true"), ("out/.data/*/*", "out/.data/*/*/*")),
    "train-prepared": Command((*SFT, "tokenized_path=prepared"), ("prepared/*", "prepared/*/*")),
    "resume": Command(RUN, ("run/*",)),
    "resume-checkpoint": Command(RUN, ("run/checkpoint-2/*",), slow=True),  # beside test_damaged_checkpoints.py
    "dpo": Command(DPO, ("cache/llamafactory/reference-*", "data/pairs.json")),
    "dpo-ref": Command((*DPO, "ref_model=base2"), ("base2/*",)),
    "grpo": Command((*GRPO, "rollout_tools=tools.py"), ("rewards.py", "tools.py")),
    "grpo-reward-model": Command(
        (*GRPO, "reward_model=reward", "reward_model_type=full", "reward_funcs=null"), ("reward/*",)
    ),
    "grpo-reward-adapter": Command(
        (*GRPO, "reward_model=scorer", "reward_model_type=lora", "reward_funcs=null"), ("scorer/adapter*",)
    ),
    "grpo-resume": Command(
        (*GRPO, "output_dir=grpo", "max_steps=2", "save_strategy=steps", "save_steps=1"),
        ("grpo/checkpoint-1/rollout*",)
    ),
    "train-template": Command((*SFT, "template=./mine.jinja"), ("mine.jinja",)),
    "train-literals": Command((*SFT, "template=./mine.yaml"), ("mine.yaml",)),
    "train-tokens": Command((*SFT, "new_special_tokens_config=tokens.yaml"), ("tokens.yaml",)),
    "preview": Command(("preview", *SFT[1:]), ("data/rows.jsonl", "base/tokenizer*")),
    "preview-messages": Command(("preview", "template=chatml", "messages=messages.json"), ("messages.json",)),
    "check-data": Command(("check-data", *SFT[1:]), ("data/rows.jsonl", "base/tokenizer*")),
    "preprocess": Command((*PREPARE, "dataset=data/rows.jsonl"), ("data/rows.jsonl", "base/tokenizer*")),
    "infer": Command((*INFER, "save_name=new.jsonl"), ("base/*", "data/rows.jsonl")),
    "infer-again": Command(INFER, ("answers.jsonl", ".answers.jsonl.settings.json")),
    "infer-adapter": Command((*INFER, "adapter_name_or_path=adapter", "save_name=new.jsonl"), ("adapter/*",)),
    "chat": Command(
        ("chat", "model_name_or_path=base", "adapter_name_or_path=adapter", "max_new_tokens=2"),
        ("base/*", "adapter/*"), "hi\nexit\n",
    ),
    "chat-quantized": Command(
        ("chat", "model_name_or_path=quantized", "max_new_tokens=2"), ("quantized/*",), "hi\nexit\n", slow=True,
    ),
    "chat-exported": Command(
        ("chat", "model_name_or_path=exported", "max_new_tokens=2"), ("exported/*",), "hi\nexit\n"
    ),
    "export": Command((*EXPORT, "adapter_name_or_path=adapter"), ("base/*", "adapter/*")),
    "export-quantized": Command((*QUANTIZED, "export_dir=new"), ("data/rows.json",), slow=True),
    "export-gguf": Command((*EXPORT, "export_gguf=f16"), ("base/*.json",)),
    "eval": Command(
        (*EVAL, "task=quiz_test"),
        ("tasks/quiz/*", "tasks/quiz/*/*"),
    ),
    "eval-zip": Command((*EVAL, "task=zip_test"), ("tasks/zip/*",)),
    **{
        f"eval-{kind}": Command((*EVAL, f"task={kind}_test"), (f"tasks/{kind}/*", f"tasks/{kind}/*/*"), slow=True)
        for kind in ("parquet", "json", "jsonl")
    },
}  # fmt: skip


@dataclass
class Outcome:
    """What a command came to: its exit code (None: a traceback), and what it wrote to stderr."""

    code: int | None
    errors: str
    printed: str = field(default="", repr=False)

    @property
    def last(self) -> str:
        """The last line of stderr."""
        return (self.errors.rstrip().splitlines() or [""])[-1]


@contextlib.contextmanager
def _place(folder: Path, words: tuple[str, ...], typed: str) -> Iterator[None]:
    import datasets.config

    before = Path.cwd(), sys.argv, sys.stdin, datasets.config.HF_DATASETS_CACHE
    os.chdir(folder)
    sys.argv, sys.stdin = ["llamafactory-cli", *words], io.StringIO(typed)
    datasets.config.HF_DATASETS_CACHE = str(folder / "cache")
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv, sys.stdin, datasets.config.HF_DATASETS_CACHE = before[1:]


def run(folder: Path, words: tuple[str, ...], typed: str = "") -> Outcome:
    """Run one command in this process, as the console script would."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    errors, printed = io.StringIO(), io.StringIO()
    code: int | None = None
    with _place(folder, words, typed), contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
        try:
            code = cli.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException as error:  # what Python would print
            if isinstance(error, KeyboardInterrupt):
                raise
            errors.write(traceback.format_exc())
    return Outcome(code, errors.getvalue(), printed.getvalue())


class World:
    """The folder, and a whole copy of it from which it is made again after each damage."""

    def __init__(self, root: Path, tiny: Path) -> None:
        self.folder, self.whole = root / "world", root / "whole"
        make(self.folder, tiny)
        shutil.copytree(self.folder, self.whole, symlinks=True)
        self.restore()

    def restore(self) -> None:
        """Make it whole again."""
        shutil.rmtree(self.folder)
        twin(self.whole, self.folder)

    def files(self, command: Command) -> list[str]:
        """The files of a command that are there."""
        found = {path for pattern in command.opens for path in self.whole.glob(pattern) if path.is_file()}
        return sorted(str(path.relative_to(self.whole)) for path in found)

    def run(self, command: Command) -> Outcome:
        """Run a command here."""
        return run(self.folder, command.words, command.typed)


def make(folder: Path, tiny: Path) -> None:
    """Fill a folder by running what users run."""
    shutil.copytree(tiny, folder / "base")
    (folder / "base" / "generation_config.json").write_text(json.dumps({"temperature": 0.7, "do_sample": True}))
    shutil.copytree(folder / "base", folder / "base2")
    _write_data(folder / "data")
    _write_small_files(folder)
    media_models.build("qwen2_vl", folder / "media", tiny)
    _reward_model(folder)
    for words in (
        (*RUN, "max_steps=2"), ("preprocess", *SFT[1:], "tokenized_path=prepared"), (*DPO, "output_dir=dpo"), INFER,
        COMMANDS["stream-cache"].words, (*EXPORT, "export_gguf=f16", "export_dir=exported"),
        (*GRPO, "output_dir=grpo", "save_strategy=steps", "save_steps=1"),
        (*STREAM, "max_steps=2"), QUANTIZED, (*TRAIN, "stage=rm", "dataset=pairs", "output_dir=scorer"),
        (*SFT, "output_dir=adapter"),
    ):  # fmt: skip
        made = run(folder, words)
        assert made.code == 0, made.errors
    further.make(folder, ROWS)
    shutil.copy(folder / "exported" / "exported-F16.gguf", folder / "base.gguf")
    shutil.rmtree(folder / "out", ignore_errors=True)
    made = run(folder, COMMANDS["train-gguf-cache"].words)
    assert made.code == 0, made.errors
    shutil.rmtree(folder / "out")
    made = run(folder, ("preprocess", *SFT[1:], "data_shared_file_system=true"))
    assert made.code == 0, made.errors


def _write_data(folder: Path) -> None:
    import gzip

    import pyarrow as pa
    import pyarrow.parquet

    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "rows.jsonl").write_text(lines)
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "rows.txt").write_text("".join(row["output"] + "\n" for row in ROWS))
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ROWS[0])
        writer.writeheader()
        writer.writerows(ROWS)
    table = pa.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, folder / "rows.parquet")
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    (folder / "pairs.json").write_text(json.dumps(PAIRS))
    media_models.picture(3).save(folder / "picture.png")
    row = {"instruction": "<image>what is this", "output": "a fox", "images": ["picture.png"]}
    (folder / "pictures.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    columns = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    info: dict[str, Any] = {"listed": {"file_name": "rows.jsonl"}}
    info["pairs"] = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _write_small_files(folder: Path) -> None:
    import yaml

    keys = dict(word.split("=", 1) for word in SFT[1:])
    keys = {key: yaml.safe_load(value) for key, value in keys.items()}
    (folder / "config.yaml").write_text(yaml.safe_dump(keys))
    (folder / "config.json").write_text(json.dumps(keys))
    (folder / "rewards.py").write_text(REWARDS)
    (folder / "tools.py").write_text(TOOLS)
    (folder / "mine.jinja").write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    (folder / "mine.yaml").write_text("extends: chatml\ndefault_system: hello\n")
    (folder / "tokens.yaml").write_text("<|a|>: the first\n")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    (folder / "messages.json").write_text(json.dumps({"messages": messages}))
    questions = "question,A,B,C,D,answer\nIs rain wet?,yes,no,maybe,never,A\nIs fire cold?,yes,no,maybe,never,B\n"
    root = folder / "tasks" / "quiz"
    for split in ("dev", "test"):
        (root / split).mkdir(parents=True)
        (root / split / f"water_{split}.csv").write_text(questions)
    (root / "mapping.json").write_text(json.dumps({"water": {"name": "water", "category": "Nature"}}))


def _reward_model(folder: Path) -> None:
    """A language model with LLaMA-Factory's value head beside it."""
    import torch
    from safetensors.torch import save_file

    shutil.copytree(folder / "base", folder / "reward")
    head = {"v_head.summary.weight": torch.ones(1, 64), "v_head.summary.bias": torch.zeros(1)}
    save_file(head, folder / "reward" / "value_head.safetensors")
