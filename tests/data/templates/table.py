# SPDX-License-Identifier: Apache-2.0
"""The table of docs/templates.md, made from the list of official texts: ``python -m tests.data.templates.table``."""

from __future__ import annotations

from pathlib import Path

from llamafactory.plugins import TEMPLATES

from .official_texts import NO_TOOLS, OFFICIAL, Official

PAGE = Path(__file__).parents[3] / "docs" / "templates.md"
START, END = "<!-- table -->\n", "<!-- /table -->"
TAGS = {
    "no_system": "no system text",
    "system": "system text",
    "late_system": "later system turns",
    "multi_turn": "several turns",
    "answer": "whole conversations",
    "tools": "tool lists",
    "calls": "calls",
    "calls_again": "calls again",
    "parallel": "several calls",
    "text_and_call": "text beside a call",
    "thought": "thoughts",
    "empty": "empty answers",
    "blank_lines": "blank lines",
    "white_space": "white space",
    "system_space": "white space around the system text",
    "thought_space": "white space around thoughts",
    "inline": "thoughts inside the text",
    "empty_question": "empty questions",
    "empty_system": "empty system texts",
    "nested": "nested schemas",
    "thinking_off": "thinking off",
    "thinking_on": "thinking on",
}


def table() -> str:
    """One row a name and official text."""
    lines = ["| name | official text compared | result |", "|---|---|---|"]
    for name in sorted(TEMPLATES):
        rows: dict[str, list[str]] = {}
        for one in OFFICIAL:
            if one.template == name:
                rows.setdefault(_result(one), []).append(one.source.partition(":")[2])
        for result, sources in rows.items():
            lines.append(f"| `{name}` | {', '.join(dict.fromkeys(sources))} | {result} |")
        if not rows:
            lines.append(f"| `{name}` | | no official text known |")
    return "\n".join(lines) + "\n"


def _result(official: Official) -> str:
    if official.other:
        return f"**another text**: {official.other}"
    differs = official.differs
    reasons: dict[str, list[str]] = {}
    for tag, reason in differs.items():
        reasons.setdefault(reason, []).append(" with ".join(TAGS[part] for part in tag.split("+")))
    if not reasons:
        return "equal"
    if differs == NO_TOOLS:
        return "equal; the official text knows no tools"
    return "differs on purpose: " + "; ".join(f"{', '.join(tags)}: {reason}" for reason, tags in reasons.items())


def page(text: str) -> str:
    """The page with a fresh table."""
    before, _, rest = text.partition(START)
    return before + START + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
