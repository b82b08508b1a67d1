# SPDX-License-Identifier: Apache-2.0
"""Whether an answer is mathematically the solution: math_verify, told where the answer stands and what it is.

The package reads several boxes as a set, an integer and its percentage as equal, and six decimals as all there are.
What it computes cannot be interrupted (``9^{9^{9^9}}``), so it runs in a process of its own:

    judge(gold, answer) -> True | False | None      # None: the solution cannot be read as mathematics
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import json
import os
import re
import subprocess
import sys
import threading
from decimal import Decimal
from typing import Any

SECONDS = 3.0  # for one comparison; honest ones take milliseconds
MEMORY_BYTES = 4 << 30  # address space of the process, most of it libraries

_END = 2000  # characters at the end of a text in which the answer is looked for: the package's search is quadratic
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?P<open>\{)?")
_FINAL = re.compile(r"####\s*(.+?)\s*$", re.MULTILINE)  # GSM8K
_PERCENT = re.compile(r"\s*(?:\\?%|percent\b)", re.IGNORECASE)
# Percent in words of LaTeX, the space before its sign, and a sign behind the formula that it belongs to.
_PERCENT_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mbox)\s*\{\s*(?:\\?%|per\s?cent\.?)\s*\}|\\?％", re.IGNORECASE)
_PER_CENT = re.compile(r"\bper[ -]cent\b", re.IGNORECASE)
_PERCENT_SPACE = re.compile(r"(?:\\[,;:! ]|~|\s)+(?=\\?%)")
_PERCENT_BEHIND = re.compile(r"\s*(\$+|\\\)|\\\])\s*(?:\\?%|percent\b)", re.IGNORECASE)
_NEGATIVE_POWER = re.compile(r"\^\s*([-−]\d+)(?![\d.])")
_RAISED = re.compile("[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")
# Two letters in a row, not of a LaTeX command: text, no bare formula.
_WORD = re.compile(r"(?<![\\A-Za-z])(?!(?:and|or|pi|sqrt)\b)[A-Za-z]{2,}")
_NAMED = re.compile(r"\\(?:begin|end|text|textbf|mathrm|operatorname)\s*\{[^{}]*\}")
_LATEX = re.compile(r"(?<!\\)\$.*(?<!\\)\$|\\\(|\\\[", re.DOTALL)
_SCIENTIFIC = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?[eE][+-]?\d{1,3})(?!\w)")
_MIXED = re.compile(r"(?<![\w.,/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w/])")
_GROUPS = re.compile(r"(?<![\d.,])(\d{1,3})((?:(?:\\[,;: ]|~| )\d{3})+)(?!\d)")
_SIGNS = str.maketrans({"−": "-", "°": r"^\circ", "∞": r"\infty "})
_ROOT = re.compile(r"(?<!\\)\bsqrt\(([^()]*)\)")
_LETTER = re.compile(r"\W*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)?\W*([A-J])(?P<rest>\W*$|\s*[).:].*)", re.DOTALL)
# A and I are words, and so may be small letters, unless nothing follows that they would belong to.
_NAMED_LETTER = re.compile(
    r"(?i:answer|option|choice)\W*(?i:is)?\W*(?i:option|choice)?\W*\b([B-HJ](?![\w'’])|[A-Ja-j](?=\s*(?:[^\w\s'’([-]|\Z))"
    r"|[AI](?=\s+(?:because|since|as|for|and|or|but|is|with)\b))"
)
_BRACKETED_LETTER = re.compile(r"\(([A-J])\)")


class Judge:
    """The process that computes, started when it is first needed and again after it was ended."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, gold: str, answer: str) -> bool | None:
        """Compare; False where that takes too long or too much memory, None where the solution alone does."""
        with self._lock:
            verdict = self._send(gold, answer)
            if verdict == "ended":
                verdict = False if self._send(gold, gold) != "ended" else None
        return verdict if isinstance(verdict, bool) else None

    def close(self) -> None:
        """End the process."""
        if self._child:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def _send(self, gold: str, answer: str) -> bool | str | None:
        child = self._child = self._child or _start()
        assert child.stdin and child.stdout
        try:
            child.stdin.write(json.dumps([gold, answer]) + "\n")
            child.stdin.flush()
            reply = child.stdout.readline()
        except BrokenPipeError:
            reply = ""
        if not reply:
            self.close()
            return "ended"
        verdict: bool | None = json.loads(reply)
        return verdict


def _start() -> subprocess.Popen[str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, str(SECONDS)], env=os.environ | {"PYTHONPATH": paths}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


judge = Judge().ask


def compare(gold: str, answer: str) -> bool | None:
    """What :func:`judge` says, computed here and without a limit."""
    gold, answer = _spelled(gold), _spelled(answer)
    wanted = _last(gold)
    letter = _lone_letter(wanted)
    if letter:
        return _letter_of(answer) == letter
    expected = _read(wanted)
    if not expected:
        return None
    found = _read(_last(answer), boxed=_last(answer) != answer)
    return bool(found) and _is_same(expected, found)


def _spelled(text: str) -> str:
    """The text with percent and powers as LaTeX spells them, where the formula stands that they belong to."""
    text = _PER_CENT.sub("percent", _PERCENT_WORDS.sub(r"\\%", text))
    text = _PERCENT_BEHIND.sub(r"\\%\1", _PERCENT_SPACE.sub("", text))
    text = _NEGATIVE_POWER.sub(lambda power: f"^{{{power[1].translate(_SIGNS)}}}", text)
    return _RAISED.sub(lambda power: f"^{{{power[0].translate(_LOWERED)}}}", text)


def _last(text: str) -> str:
    """What the last box holds, or what follows the last ``####``; the whole text without either."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        finals = _FINAL.findall(text)
        return finals[-1] if finals else text.strip()
    start = boxes[-1].end()
    if not boxes[-1]["open"]:
        return text[start:].split()[0].rstrip("$.,") if text[start:].split() else ""
    end = _closing_brace(text, start)
    percent = _PERCENT.match(text, end + 1)
    return text[start:end].strip() + ("\\%" if percent else "")


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if not depth:
            return match.start()
    line = text.find("\n", start)
    return line if line >= 0 else len(text)


def _lone_letter(text: str) -> str | None:
    found = _LETTER.fullmatch(text.strip())
    return found[1] if found and not re.search(r"\w", found["rest"]) else None


def _letter_of(answer: str) -> str | None:
    """The choice that an answer makes."""
    last = _last(answer)
    last = last.upper() if len(last.strip("() .")) == 1 else last
    found = _LETTER.fullmatch(last)
    named = _NAMED_LETTER.findall(last) or _BRACKETED_LETTER.findall(last)
    return found[1] if found else named[-1].upper() if named else None


def _read(text: str, boxed: bool = False) -> list[Any]:
    """What stands in a formula, or at the end of a text with formulas; [] = nothing that can be read."""
    from math_verify import LatexExtractionConfig, parse

    text = _SCIENTIFIC.sub(lambda number: f"{Decimal(number[1]):f}", text).strip()
    if not boxed and (_WORD.search(_NAMED.sub("", text)) or _LATEX.search(text)):
        found: list[Any] = parse(text[-_END:], parsing_timeout=None)
        return found
    formula = _as_latex(text)
    values: list[Any] = parse(f"${formula}$", [LatexExtractionConfig()], parsing_timeout=None) if formula else []
    percent = _PERCENT.search(formula)
    if percent and values and isinstance(values[0], str):  # 2\frac{1}{2}\%
        return [value / 100 for value in _read(formula[: percent.start()], boxed)[:1] if not isinstance(value, str)]
    return values


def _as_latex(formula: str) -> str:
    formula = formula.strip().strip("$*").rstrip(".").strip().replace("**", "^").translate(_SIGNS)
    formula = re.sub(r"\\text\s*\{[^{}]*:\s*\}", "", formula)
    formula = re.sub(r"\^\(([^()]*)\)|\^(-?\d{2,})", lambda power: f"^{{{power[1] or power[2]}}}", formula)
    formula = _MIXED.sub(r"\1\\frac{\2}{\3}", formula)
    formula = _GROUPS.sub(lambda number: number[1] + re.sub(r"\D", "", number[2]), formula)
    formula = _ROOT.sub(r"\\sqrt{\1}", formula)
    formula = re.sub(r"(?<![\\A-Za-z])pi\b", r"\\pi ", formula)
    return re.sub(r"(?<!\\)\b(and|or)\b", r"\\text{ \1 }", formula)


def _is_same(expected: list[Any], found: list[Any]) -> bool:
    from math_verify import verify

    gold, value = _plain(expected[0]), _plain(found[0])
    if isinstance(gold, str) or isinstance(value, str):
        return bool(verify(expected, found, timeout_seconds=None))
    if getattr(gold, "is_number", False) and getattr(value, "is_number", False):
        exact = [_exact(gold), _exact(value)]
        if (exact[0] - exact[1]).equals(0):
            return True
        # The package compares six decimals: of 1e-7 and 2e-7 none is left.
        if abs(float(abs(exact[0] - exact[1]))) > 1e-3 * float(abs(exact[0])):
            return False
    return bool(verify([gold], [value], timeout_seconds=None))


def _plain(value: Any) -> Any:
    """Ten percent as a tenth: the package keeps them apart, to let 10 % and 10 be equal."""
    from sympy import Basic, UnevaluatedExpr

    return value.replace(UnevaluatedExpr, lambda inner: inner) if isinstance(value, Basic) else value


def _exact(value: Any) -> Any:
    """Decimals as fractions."""
    from sympy import Float, Rational

    return value.replace(lambda part: isinstance(part, Float), lambda part: Rational(str(part))).doit()


def _serve() -> None:
    """Answer lines of JSON until there are none; a comparison that takes too long ends the process."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    compare("1", "1")  # what is imported and compiled first takes longer than any limit
    for line in sys.stdin:
        # Ends it within C code too, which a signal would wait for.
        faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)
        verdict: bool | None = False
        with contextlib.suppress(Exception):  # a formula on which the libraries fail is not equal to anything
            verdict = compare(*json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    _serve()
