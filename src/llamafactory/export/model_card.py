# SPDX-License-Identifier: Apache-2.0
"""The README.md of an exported folder: what it is, and where it runs; and how each card of ours begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..extras.secrets import public_name
from .readers import Verdict, words

if TYPE_CHECKING:
    from ..hparams import InferArgs


def card_head(library: str, model: str | None, tags: Sequence[str]) -> str:
    """Return the YAML that a card begins with, as the hub reads it.

    Args:
        library: That loads the folder.
        model: ``model_name_or_path``; it is the base where it is a name on the hub.
        tags: What else it is found by.
    """
    # The hub refuses a card whose base is none of its models.
    base_line = f"\nbase_model: {model}" if public_name(model) == model else ""
    return f"""---
library_name: {library}
license: other{base_line}
tags:
{chr(10).join(f"- {tag}" for tag in tags)}
---"""


def model_card(args: InferArgs, title: str, template: str, readers: Sequence[Verdict]) -> str:
    """Return the text.

    Args:
        args: Of the export.
        title: Name of the folder.
        template: Name of the chat template.
        readers: What other programs make of the folder.
    """
    base = public_name(args.model.model_name_or_path)
    head = card_head("transformers", args.model.model_name_or_path, ["llama-factory"])
    rows = "\n".join(f"| {one.reader} | {one.version or ''} | {words(one)} |" for one in readers)
    return f"""{head}

# {title}

A version of `{base}`, merged and proven; conversations are written with the template `{template}`.

## Where it runs

What each program computes from this folder, compared with transformers 5; `compatibility.json` says the same.

| program | version looked at | verdict |
|---|---|---|
{rows}
"""
