# SPDX-License-Identifier: Apache-2.0
"""The table of media in docs/templates.md, made from the proofs: ``python -m tests.data.media.table``."""

from __future__ import annotations

from llamafactory.data.media.families import KINDS, MediaFamily
from llamafactory.plugins import MEDIA, TEMPLATES, resolve

from ..templates.table import PAGE
from .proofs import DOCUMENTED, NEED_TORCHVISION, PROOFS

START, END = "<!-- media -->\n", "<!-- /media -->"


def table() -> str:
    """One row a family."""
    lines = ["| family | templates | takes | compared with |", "|---|---|---|---|"]
    for name in sorted(MEDIA):
        family: MediaFamily = resolve("media", name)
        templates = [template for template in sorted(TEMPLATES) if resolve("templates", template).media == name]
        takes = [kind + ("¹" if kind == "video" else "") for kind in KINDS if getattr(family, kind) is not None]
        proofs = {
            key: one for key, one in PROOFS.items() if (one.media or (one.template in templates and name)) == name
        }
        texts = [one.jinja.partition(":")[2] or "the Jinja of the processor" for one in proofs.values()]
        documented = {key for key, one in DOCUMENTED.items() if one.template in templates}
        texts += ["documented prompts"] if documented else []
        everything = "¹" if {*proofs, *documented} <= set(NEED_TORCHVISION) else ""
        shown = ", ".join(f"`{template}`" for template in templates)
        lines.append(f"| {name}{everything} | {shown} | {', '.join(takes)} | {', '.join(dict.fromkeys(texts))} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """The page with a fresh table."""
    before, _, rest = text.partition(START)
    return before + START + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
