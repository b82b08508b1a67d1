# SPDX-License-Identifier: Apache-2.0
"""Jinja of strangers that never ends or fills the memory: one clear line, in any thread."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import jinja2
import pytest

from llamafactory.data.messages import Message, Part
from llamafactory.data.template import jinja_sandbox
from llamafactory.data.template.jinja_sandbox import limited, render
from llamafactory.data.template_loader import get_template
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.data_args import DataArguments
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model import load_tokenizer

NESTED = "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}"
SILENT = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
RECURSIVE = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) }}"
DOUBLING = "{% set ns = namespace(x='x' * 1000) %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
ENDLESS = {
    "range(10**9)": ("{% for i in range(10**9) %}{{ i }}{% endfor %}", "powers"),
    "a long range": ("{% for i in range(999999) %}{{ i }}{% endfor %}", "Range too big"),
    "nested loops": (NESTED, "endless loop"),
    "nothing written": (SILENT, "endless loop"),
    "a macro that calls itself twice": (RECURSIVE, "endless loop"),
    "a macro without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "doubling": (DOUBLING, "endless loop"),
    "a tower of powers": ("{{ 9**9**9 }}", "powers"),
    "one huge text": ("{{ 'x' * 1_000_000_000_000 }}", "numbers above"),
    "one huge field": ("{{ 'x'.center(0xfffffffff) }}", "numbers above"),
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "SECONDS", 0.4)
    monkeypatch.setattr(jinja_sandbox, "BYTES", 1 << 28)


@pytest.mark.parametrize(("source", "why"), ENDLESS.values(), ids=ENDLESS)
def test_what_does_not_end_is_stopped(source: str, why: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=why):
        render(source, [])
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "still well"}]) == ("still well", [])


def test_the_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jinja_sandbox, "CHARACTERS", 100)
    assert render("{{ 'x' * 100 }}", [])[0] == "x" * 100
    with pytest.raises(jinja2.TemplateError, match="101 characters"):
        render("{{ 'x' * 101 }}", [])


@pytest.mark.parametrize("own", [False, True])
def test_a_users_and_a_models_template_end_in_one_line(tiny_llama: Path, tmp_path: Path, own: bool) -> None:
    tokenizer = load_tokenizer(ModelArguments(model_name_or_path=str(tiny_llama)))
    file = tmp_path / "mine.jinja"
    file.write_text(NESTED)
    if own:
        tokenizer.chat_template = NESTED
    template = get_template(tokenizer, DataArguments(template=None if own else str(file)))
    with pytest.raises(ConfigError, match="endless loop") as told:
        template.render([Message("user", (Part("text", "hi"),))])
    assert "\n" not in str(told.value)


def test_only_the_thread_that_hangs_is_stopped() -> None:
    ends: dict[str, object] = {}

    def hang() -> None:
        try:
            render(SILENT, [])
        except jinja2.TemplateError as error:
            ends["hang"] = error

    def work() -> None:
        rendered = 0
        while "hang" not in ends:
            rendered += len(render("{{ 'ab' }}", [])[0])
        ends["work"] = rendered

    threads = [threading.Thread(target=target) for target in (hang, work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert isinstance(ends["hang"], jinja2.TemplateError) and isinstance(ends["work"], int) and ends["work"] > 0


def test_nothing_arrives_after_the_end() -> None:
    for _ in range(5):
        try:
            with limited(""):
                time.sleep(0.4)  # ends about when the limit is reached
        except jinja2.TemplateError:
            pass
        time.sleep(0.1)


def test_a_traced_function_runs_after_a_rendering() -> None:
    """CPython 3.11 goes round for ever in it once something that was to be thrown was taken back."""
    code = """
import sys
from llamafactory.data.template.jinja_sandbox import render
render("{{ messages[0].content }}", [{"role": "user", "content": "x"}])
sys.settrace(lambda *_: None)
print((lambda: 1)())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n"


def test_a_forked_worker_is_watched_too() -> None:
    import multiprocessing

    render("{{ 1 }}", [])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert "endless loop" in pool.apply_async(_stopped).get(timeout=60)


def _stopped() -> str:
    try:
        return render(SILENT, [])[0]
    except jinja2.TemplateError as error:
        return str(error)
