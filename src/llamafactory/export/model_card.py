# SPDX-License-Identifier: Apache-2.0
"""The README.md of an exported folder: what it is, and where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..extras.secrets import public_name
from .readers import Verdict, words

if TYPE_CHECKING:
    from ..hparams import InferArgs


def model_card(args: InferArgs, title: str, template: str, readers: Sequence[Verdict]) -> str:
    """Return the text.

    Args:
        args: Of the export.
        title: Name of the folder.
        template: Name of the chat template.
        readers: What other programs make of the folder.
    """
    base = public_name(args.model.model_name_or_path)
    # The hub refuses a card whose base is none of its models.
    base_line = f"\nbase_model: {base}" if base == args.model.model_name_or_path else ""
    rows = "\n".join(f"| {one.reader} | {one.version or ''} | {words(one)} |" for one in readers)
    return f"""---
library_name: transformers
license: other{base_line}
tags:
- llama-factory
---

# {title}

A version of `{base}`, merged and proven; conversations are written with the template `{template}`.

## Where it runs

What each program computes from this folder, compared with transformers 5; `compatibility.json` says the same.

| program | version looked at | verdict |
|---|---|---|
{rows}
"""
