# SPDX-License-Identifier: Apache-2.0
"""Write docs/coming_from.md: the keys of other programs beside ours, from the tables by which their files are read.

python scripts/dialect_tables.py > docs/coming_from.md
"""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from llamafactory.hparams.aliases import DROPPED, RENAMED, SWITCHED
from llamafactory.hparams.dialects import DIALECTS
from llamafactory.hparams.dialects.rules import Absent, Aside
from llamafactory.hparams.schema import known_keys

HEAD = """# Coming from LLaMA-Factory, axolotl, ms-swift or TRL

<!-- Written by scripts/dialect_tables.py; tests/test_docs.py compares. -->

LLaMA-Factory's files run as they stand. Files of axolotl and ms-swift are translated by
`llamafactory-cli convert-config`, from the tables below; files of LLaMA-Factory's v1 engine are read as they stand.
What a *row* of data trains in each tool is in [migration.md](migration.md).
"""

# Fields of TRL's configurations whose names differ; all fields of transformers' TrainingArguments keep theirs.
TRL: dict[str, dict[str, str]] = {
    "SFTConfig": {
        "max_length": "`cutoff_len`",
        "packing": "`packing`",
        "padding_free": "`padding_free`",
        "assistant_only_loss": "what is done always; `train_on_prompt: true` trains the rest too",
        "completion_only_loss": "what is done always for rows of prompt and completion",
        "dataset_text_field": "`columns: prompt=NAME` with `stage: pt`",
        "dataset_num_proc": "`preprocessing_num_workers`",
        "eos_token": "the template says it",
        "pad_token": "the tokenizer says it",
        "chat_template_path": "`template: ./FILE.jinja`",
        "loss_type": "`dft`: `use_dft_loss: true`",
        "model_init_kwargs": "keys of their own: `infer_dtype`, `flash_attn`, `trust_remote_code` …",
        "activation_offloading": "`activation_offload: cpu`",
    },
    "DPOConfig": {
        "beta": "`pref_beta`",
        "loss_type": "`pref_loss`",
        "label_smoothing": "`dpo_label_smoothing`",
        "ld_alpha": "`ld_alpha`",
        "max_length": "`cutoff_len`",
        "precompute_ref_log_probs": "done by itself; `cache_ref_log_probs`",
    },
    "RewardConfig": {"max_length": "`cutoff_len`"},
    "GRPOConfig": {
        "num_generations": "`num_generations`",
        "max_completion_length": "`max_new_tokens`",
        "temperature": "`temperature`",
        "top_p": "`top_p`",
        "top_k": "`top_k`",
        "num_iterations": "`num_iterations`",
        "use_vllm": "`rollout_engine: vllm`",
    },
}


def words_of(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield every text that a rule's function holds: in its code, in what it closes over, in the tables it names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            yield from words_of(item, depth)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from words_of(key, depth)
            yield from words_of(item, depth)
    elif isinstance(value, types.CodeType):
        yield from words_of(value.co_consts, depth)
    elif isinstance(value, types.FunctionType) and depth < 3:
        yield from words_of(value.__code__, depth)
        yield from words_of([cell.cell_contents for cell in value.__closure__ or ()], depth + 1)
        named = [value.__globals__.get(name) for name in value.__code__.co_names]
        own = [one for one in named if isinstance(one, dict | types.FunctionType)]
        yield from words_of([one for one in own if getattr(one, "__module__", "") != "builtins"], depth + 1)


def keys_of(rule: Any, known: set[str]) -> list[str]:
    """Keys of ours that a rule's function returns for any of the values that it knows."""
    words = [word for word in dict.fromkeys(words_of(rule)) if not word.endswith((".yaml", ".yml"))]
    plain: list[Any] = [True, False, 1, 2, 0.5, "x", ["x"], [{"path": "x"}], *words]
    plain += [{"name": word} for word in words]
    found: dict[str, None] = {}
    for value in plain:
        with suppress(Exception):  # most values are of no shape that this rule takes
            found |= dict.fromkeys(rule(value, {}))
    return [key for key in found if key in known]


def ours(rule: Any, known: set[str]) -> str:
    """What stands in our column."""
    if isinstance(rule, str):
        return f"`{rule}`"
    if isinstance(rule, Aside):
        return f"changes nothing here: {rule.why}"
    if isinstance(rule, Absent):
        return f"no counterpart: {rule.why}"
    if found := keys_of(rule, known):
        return ", ".join(f"`{key}`" for key in found) + ", by its value"
    closed = [cell.cell_contents for cell in rule.__closure__ or ()]
    said = next((text for text in closed if isinstance(text, str) and " " in text), "")
    return f"one value is taken: {said}" if said else "taken together with other keys"


def table(rows: dict[str, str], theirs: str) -> str:
    """A table in Markdown."""
    lines = [f"| `{key}` | {' '.join(text.split()).replace('|', '/')} |" for key, text in rows.items()]
    return "\n".join([f"| {theirs} | here |", "|---|---|", *lines])


def page() -> str:
    """The whole page."""
    known, parts = known_keys(), [HEAD]
    older = {old: f"`{new}`" for old, new in sorted(RENAMED.items())}
    older |= {
        old: ", ".join(f"`{key}: {value}`" for key, value in new.items()) for old, new in sorted(SWITCHED.items())
    }
    older |= {old: f"has no effect: {why}" for old, why in sorted(DROPPED.items())}
    parts.append(
        f"## LLaMA-Factory\nEvery key keeps its name and default. Older names:\n\n{table(older, 'older name')}\n"
    )
    for dialect in DIALECTS.values():
        rows = {key: ours(rule, known) for key, rule in sorted(dialect.rules.items())}
        silent = dialect.defaults({"output_dir": ""})
        said = ", ".join(f"`{key}: {value}`" for key, value in silent.items()) or "nothing"
        parts.append(
            f"## {dialect.title[0].upper()}{dialect.title[1:]}\n{table(rows, 'theirs')}\n\n"
            f"What its silence means is written out: {said}.\n\nKeys that both have keep their names.\n"
        )
    parts.append("## TRL\nTRL is a library; these are the fields of its configurations that have other names here.\n")
    for name, rows in TRL.items():
        parts.append(f"### {name}\n{table(rows, 'field')}\n")
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    os.environ["WORLD_SIZE"] = "1"  # so that no table depends on this machine
    print(page(), end="")
