# SPDX-License-Identifier: Apache-2.0
"""Data sets and templates as axolotl's files name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rules import NoCounterpart, Rule, Values, entry_name

_PLACES = ("s3://", "gs://", "gcs://")
_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt", ".zst", ".gz")
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_INTEL = {"system": "system", "prompt": "question", "chosen": "chosen", "rejected": "rejected"}
# Layouts of pairs, by what stands behind the template's name.
_PAIRS = {
    "intel": {"ranking": True, "columns": _INTEL},
    "prompt_pairs": {"ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}},
    "ultra": {"ranking": True, "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}},
}
_EARLIER_TEMPLATES = {
    "chatml": "chatml", "llama3": "llama3", "gemma": "gemma", "gemma3": "gemma3", "phi_3": "phi", "phi_4": "phi4",
    "qwen_25": "qwen", "qwen3": "qwen3", "alpaca": "alpaca", "mistral_v1": "mistral", "deepseek_v2": "deepseek",
    "cohere": "cohere", "command_a": "cohere", "llama4": "llama4",
}  # fmt: skip


def sets(key: str) -> Rule:
    """Return the rule for a list of data sets, which our key names."""
    return lambda value, whole: entries(key, value, whole)


def entries(key: str, value: list[dict[str, Any]], whole: Values) -> Values:
    """Return data sets as entries of ``dataset_dir``, their names under ``key``, and what their layouts ask for."""
    found: dict[str, Any] = {}
    more: dict[str, Any] = {}
    for item in value:
        name = entry_name(str(item.get("name") or item["path"]), found)
        found[name], asked = _entry(item, bool(whole.get("rl")) or bool(whole.get("reward_model")))
        more |= asked
    return {key: ",".join(found), "dataset_dir": found, **more}


def _entry(item: dict[str, Any], paired: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """One set as an entry of dataset_info.json, and keys that its layout asks for."""
    files = item.get("data_files")
    if files and not isinstance(files, str) and len(files) > 1:
        raise NoCounterpart("several data_files in one set; write a set for each")
    path = str(files if isinstance(files, str) else files[0] if files else item["path"])
    entry: dict[str, Any] = {}
    if path.startswith(_PLACES):
        entry["cloud_file_name"] = path
    elif files or path.endswith(_FILES) or path.startswith(("./", "/", "../")):
        entry["file_name"] = path
    else:
        entry["hf_hub_url"] = path
        if item.get("name"):
            entry["subset"] = item["name"]
    if item.get("split") not in (None, "train"):
        entry["split"] = item["split"]
    for key in ("shards", "message_field_training_detail", "revision", "input_transform"):
        if item.get(key):
            raise NoCounterpart(f"{key} of a set")
    layout, more = _layout(item, paired)
    return entry | layout, more


def _layout(item: dict[str, Any], paired: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    kind = item.get("type")
    if isinstance(kind, Mapping):
        if kind.get("format") or kind.get("no_input_format") or kind.get("prompt_format"):
            raise NoCounterpart("a format of one's own; write it as a template (docs/templates.md)")
        names = {"field_system": "system", "field_instruction": "prompt", "field_input": "query",
                 "field_output": "response", "field_prompt": "prompt", "field_chosen": "chosen",
                 "field_rejected": "rejected"}  # fmt: skip
        columns = {ours: kind[theirs] for theirs, ours in names.items() if kind.get(theirs)}
        return {"columns": columns, **({"ranking": True} if paired else {})}, {}
    family, _, rest = str(kind or "").partition(".")
    if family in ("completion", "pretrain", "None", ""):
        return {"columns": {"prompt": item.get("field") or item.get("text_column") or "text"}}, {"stage": "pt"}
    if paired and rest in _PAIRS:
        return dict(_PAIRS[rest]), {}
    if family == "alpaca":
        more = {"template": "alpaca"} if not rest or rest == "load" else {}
        return {"columns": dict(_ALPACA)}, more
    if family in ("chat_template", "sharegpt"):
        return _messages(item, paired), _masks(item)
    raise NoCounterpart(f"rows of type {kind}; look what they hold with `llamafactory-cli preview`")


def _messages(item: dict[str, Any], paired: bool) -> dict[str, Any]:
    mapped = item.get("message_property_mappings") or {}
    role = mapped.get("role") or item.get("message_field_role") or "role"
    content = mapped.get("content") or item.get("message_field_content") or "content"
    columns = {"messages": item.get("field_messages") or "messages"}
    if item.get("field_tools"):
        columns["tools"] = item["field_tools"]
    if paired:
        columns |= {
            "chosen": item.get("field_chosen") or "chosen",
            "rejected": item.get("field_rejected") or "rejected",
        }
    tags: dict[str, str] = {"role_tag": role, "content_tag": content}
    for target, key in (("user", "user_tag"), ("assistant", "assistant_tag"), ("system", "system_tag"),
                        ("tool", "observation_tag")):  # fmt: skip
        sources = (item.get("roles") or {}).get(target)
        if sources:
            if len(sources) > 1:
                raise NoCounterpart(f"several names of the role {target} in one set")
            tags[key] = sources[0]
    spelled = role != "role" or content != "content" or len(tags) > 2
    found = {"formatting": "sharegpt" if role == "from" else "openai", "columns": columns}
    return found | ({"tags": tags} if spelled else {}) | ({"ranking": True} if paired else {})


def _masks(item: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if item.get("train_on_eos") not in (None, "turn"):
        raise NoCounterpart("train_on_eos other than turn: what ends an answer is trained with it")
    trained = item.get("roles_to_train")
    if trained is not None and sorted(trained) not in (["assistant"], ["gpt"]):
        raise NoCounterpart("roles_to_train other than the assistant; see train_on_prompt")
    if item.get("chat_template"):
        found |= template(item["chat_template"], item)
    return found


def template(value: Any, whole: Values) -> Values:
    """Return our template for axolotl's name of one."""
    name = str(value)
    if name in ("tokenizer_default", "jinja") or name.startswith("tokenizer_default_fallback_"):
        text = whole.get("chat_template_jinja")
        if name == "jinja" and text:
            if not str(text).endswith(".jinja"):
                raise NoCounterpart("put chat_template_jinja into a file, and give it as template: FILE.jinja")
            return {"template": text}
        return {}  # the tokenizer's own: our default
    if name not in _EARLIER_TEMPLATES:
        raise NoCounterpart("no template here is known to write the same; unset takes the tokenizer's own")
    return {"template": _EARLIER_TEMPLATES[name]}
