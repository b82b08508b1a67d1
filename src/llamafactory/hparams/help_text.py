# SPDX-License-Identifier: Apache-2.0
"""The text of ``train -h`` and its like: every key by section, with type, default, choices and meaning."""

from __future__ import annotations

from typing import Any

from .args import SHARED_SECTIONS, TRAINING_SECTIONS
from .coercion import describe
from .schema import Key, keys_of, plugin_sections
from .training_args import CHOSEN

# Sections that each command reads; "tuners" stands for those of every tuner.
SECTIONS: dict[str, tuple[str, ...]] = {
    "train": (*SHARED_SECTIONS, *TRAINING_SECTIONS, "tuners"),
    "preview": ("data", "model", "finetuning"),
    "preprocess": ("data", "model", "finetuning"),
    "check-data": ("data", "model", "finetuning"),
    "plan": ("plan", "data", "model", "finetuning", "training", "quantization"),
    "doctor": ("data", "model", "training", "ray"),
    "chat": ("model", "data", "generating", "finetuning", "quantization", "media", "vllm", "sglang", "kt"),
    "infer": ("infer", "data", "generating", "model", "finetuning", "quantization", "media", "vllm", "sglang", "kt"),
    "mine": ("infer", "data", "model", "finetuning", "quantization"),
    "eval": ("evaluation", "model", "data", "finetuning", "quantization"),
    "api": ("model", "data", "generating", "finetuning", "quantization", "media", "vllm", "sglang", "kt"),
    "webchat": ("model", "data", "generating", "finetuning", "quantization", "media", "vllm", "sglang", "kt"),
    "export": ("export", "model", "data", "finetuning", "quantization"),
}

_NOTES: dict[str, str] = {
    "train": "Trains a model (or evaluates one: do_eval, do_predict).",
    "preview": "Shows rows as the model will see them; reads the same file as train.",
    "preprocess": "Tokenizes the data of a run into the cache or tokenized_path; reads the same file as train.",
    "check-data": "Looks at every row and reports what is broken; reads the same file as train.",
    "plan": "Says what memory a run needs, part by part, and whether it fits; reads the same file as train.",
    "doctor": "Looks at machines and network before a run; each machine runs it, with the variables and file of train.",
    "chat": "Talks to a model in the terminal; reads the same file as train and uses what it trained.",
    "infer": "Answers every row of a data set into a JSONL file; a stopped run goes on where it was.",
    "mine": "Finds hard negatives: documents that an embedding model takes for answers; reads the same file as train.",
    "eval": "Runs benchmarks: local multiple-choice folders and tasks of lm-eval.",
    "api": "Serves a model over HTTP, as OpenAI does; API_HOST, API_PORT, API_KEY and more come from the environment.",
    "webchat": "Talks to a model in the browser; GRADIO_SERVER_NAME, GRADIO_AUTH and more come from the environment.",
    "export": "Writes the merged model; reads the same file as train and uses what it trained.",
}


def help_text(command: str) -> str:
    """Return the help of one command that reads a configuration."""
    lines = [
        f"llamafactory-cli {command} FILE.yaml|FILE.json [key=value ...]",
        f"llamafactory-cli {command} --key value [--key=value ...] [--flag]",
        "",
        _NOTES[command],
    ]
    tables: dict[str, type] = {**SHARED_SECTIONS, **TRAINING_SECTIONS}
    for name in SECTIONS[command]:
        for title, section in (plugin_sections() if name == "tuners" else {name: tables[name]}).items():
            lines += _section_lines(title, section)
    return "\n".join(lines) + "\n"


def _section_lines(title: str, section: type) -> list[str]:
    keys = keys_of(section)
    if not keys:
        return []
    lines = ["", f"{title}: {(section.__doc__ or '').strip().splitlines()[0]}"]
    for key in keys.values():
        lines += [f"  {key.name}: {_kind(key)} = {_default(key)}", f"      {key.help}"]
    return lines


def _kind(key: Key) -> str:
    """The type in words, and for a number which ones."""
    return f"{describe(key.hint)} ({key.within})" if str(key.within) else describe(key.hint)


def _default(key: Key) -> str:
    return "chosen by the run" if key.name in CHOSEN else _shown(key.default)


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return '""' if value == "" else str(value)
