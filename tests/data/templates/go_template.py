# SPDX-License-Identifier: Apache-2.0
"""A reader of Ollama Modelfiles and of the part of Go's template language that these use, for tests.

Written from https://docs.ollama.com/modelfile, https://docs.ollama.com/template and https://pkg.go.dev/text/template;
it knows nothing of the code that writes them. Whatever it does not know is an error.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

INSTRUCTIONS = {"FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE"}
PARAMETERS: dict[str, type] = {
    **dict.fromkeys(("num_ctx", "repeat_last_n", "seed", "num_predict", "top_k", "mirostat"), int),
    **dict.fromkeys(
        ("repeat_penalty", "temperature", "top_p", "min_p", "mirostat_eta", "mirostat_tau", "tfs_z"), float
    ),
    "stop": str,
}
_LINE = re.compile(r'([A-Za-z]+)[ \t]+([a-z_]+[ \t]+)?(?:"""(.*?)"""|([^\n]*))[ \t]*(?:\n|\Z)', re.DOTALL)
_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_WORD = re.compile(r'\s*([()]|"(?:[^"\\]|\\.)*"|\$?\.?[A-Za-z_][\w.]*|\$\.?[\w.]*|\d+|:=|=|,)')
FIELDS = {"System", "Messages", "Role", "Content"}


class Instruction(NamedTuple):
    name: str
    value: str
    parameter: str = ""


def read_modelfile(text: str) -> list[Instruction]:
    """Read every instruction; values of parameters are checked against their documented types."""
    found, at = [], 0
    while at < len(text):
        line_end = text.find("\n", at) + 1 or len(text)
        if not text[at:line_end].strip() or text[at:line_end].lstrip().startswith("#"):
            at = line_end
            continue
        match = _LINE.match(text, at)
        assert match is not None, text[at:line_end]
        name, key, long, short = match[1].upper(), (match[2] or "").strip(), match[3], match[4]
        assert name in INSTRUCTIONS, name
        if name == "PARAMETER":
            value = short.strip() if long is None else long
            if long is None and value.startswith('"'):
                assert len(value) > 1 and value.endswith('"'), value
                value = value[1:-1]
            assert str(PARAMETERS[key](value)) == value, (key, value)
            found.append(Instruction(name, value, key))
        else:
            assert long is not None or not short.startswith('"""'), short
            found.append(Instruction(name, f"{key} {short}".strip() if long is None else long))
        at = match.end()
    assert [one.name for one in found].count("FROM") == 1
    return found


def execute(source: str, data: dict[str, Any]) -> str:
    """Execute a Go template; text is taken as it is (no trim marks)."""
    nodes, rest = _block([*_split(source)], 0, ends=())
    assert rest == len([*_split(source)])
    return _run(nodes, data, {"$": data})


def _split(source: str) -> list[tuple[bool, str]]:
    parts = [(number % 2 == 1, part) for number, part in enumerate(_ACTION.split(source))]
    for action, part in parts:
        assert action or ("{{" not in part and "}}" not in part), part
        assert not action or not (part.startswith("- ") or part.endswith(" -")), part
    return [(action, part.strip() if action else part) for action, part in parts]


def _block(parts: list[tuple[bool, str]], at: int, ends: tuple[str, ...]) -> tuple[list[Any], int]:
    """Nodes up to one of ``ends``, and where that stands."""
    nodes: list[Any] = []
    while at < len(parts):
        action, part = parts[at]
        word = part.split(" ")[0] if action else ""
        if word in ends:
            return nodes, at
        if word == "if":
            node, at = _branches(parts, at)
            nodes.append(node)
        elif word == "range":
            inner, at = _block(parts, at + 1, ("end",))
            nodes.append(("range", part.removeprefix("range "), inner))
        else:
            assert word not in ("else", "end"), part
            nodes.append(("value", part) if action else ("text", part))
        at += 1
    assert not ends, f"no {ends}"
    return nodes, at


def _branches(parts: list[tuple[bool, str]], at: int) -> tuple[tuple[str, list[Any]], int]:
    branches = []
    condition = parts[at][1].removeprefix("if ")
    while True:
        inner, at = _block(parts, at + 1, ("else", "end"))
        branches.append((condition, inner))
        if parts[at][1] == "end":
            return ("if", branches), at
        condition = parts[at][1].removeprefix("else").strip().removeprefix("if ")


def _run(nodes: list[Any], dot: Any, names: dict[str, Any]) -> str:
    out = ""
    for kind, *rest in nodes:
        if kind == "text":
            out += rest[0]
        elif kind == "value":
            assigned = re.fullmatch(r"(\$\w+) :?= (.+)", rest[0])
            if assigned:
                assert ":=" in rest[0] or assigned[1] in names
                names[assigned[1]] = _value(assigned[2], dot, names)
            else:
                out += str(_value(rest[0], dot, names))
        elif kind == "if":
            for condition, inner in rest[0]:
                if not condition or _value(condition, dot, names):
                    out += _run(inner, dot, names)
                    break
        else:
            variables, expression = re.fullmatch(r"(\$\w+), \$_ := (.+)", rest[0]).groups()  # type: ignore[union-attr]
            for number, item in enumerate(_value(expression, dot, names)):
                names[variables] = number
                out += _run(rest[1], item, names)
    return out


def _value(expression: str, dot: Any, names: dict[str, Any]) -> Any:
    words, at = [], 0
    while at < len(expression):
        match = _WORD.match(expression, at)
        assert match is not None, expression
        words.append(match[1])
        at = match.end()
    values = _terms(words, dot, names)
    assert not words
    return values


FUNCTIONS = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "len": len,
    "slice": lambda values, start: values[start:],
}


def _terms(words: list[str], dot: Any, names: dict[str, Any]) -> Any:
    """One pipeline: a single operand, or a function and its operands."""
    terms = []
    while words and words[0] != ")":
        word = words.pop(0)
        if word == "(":
            terms.append(_terms(words, dot, names))
            assert words.pop(0) == ")"
        elif word.startswith('"'):
            terms.append(json.loads(word))
        elif word.isdigit():
            terms.append(int(word))
        elif word.startswith((".", "$.")):
            field = word.removeprefix("$").removeprefix(".")
            assert field in FIELDS, word
            terms.append((names["$"] if word.startswith("$") else dot)[field])
        elif word.startswith("$"):
            terms.append(names[word])
        else:
            terms.append(FUNCTIONS[word])
    return terms[0](*terms[1:]) if callable(terms[0]) else terms[0]
