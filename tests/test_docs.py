# SPDX-License-Identifier: Apache-2.0
"""Commands, Python and links of the pages: each command is one, and its keys are taken by who reads them."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_eval_args, get_infer_args, get_train_args
from llamafactory.hparams.schema import known_keys
from llamafactory.launcher import COMMANDS, OTHER_NAMES, PLAIN

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n((?:.|\n)*?)^```$", re.M)
SIGNATURES = "contracts.md"  # its blocks are of names and types, not to be run
READERS = {
    **dict.fromkeys(("train", "preprocess", "preview", "check-data", "plan", "doctor", "sft"), get_train_args),
    **dict.fromkeys(("chat", "infer", "export", "api", "webchat", "merge", "mine"), get_infer_args),
    "eval": get_eval_args,
}  # fmt: skip
# Keys of one command, which it takes out before the others are read.
OF_COMMANDS = ("device", "report_format", "preview_format", "preview_samples", "messages", "save_name")
# Other programs: they are named, and nothing of theirs is checked here.
ELSEWHERE = ("pip", "python", "source", "curl", "ollama", "accelerate", "printf", ".venv/bin/pre-commit", "sudo")


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield page and words of every line of a shell block that is a command."""
    for page in PAGES:
        for kind, block in BLOCK.findall(page.read_text("utf-8")):
            for line in block.replace("\\\n", " ").splitlines() if kind in ("", "bash", "sh") else ():
                line = re.sub(r"\$\([^)]*\)", "x", line)
                words = shlex.split(re.sub(r"\s#.*", "", line).strip(), comments=True) if "'" not in line else []
                words = words or line.split("#")[0].split()
                while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
                    words = words[1:]
                if "|" in words:
                    words = words[words.index("|") + 1 :]
                if words and re.match(r"[.a-z]", words[0]) and page.name != "architecture.md":
                    yield page.name, words


def python_of(page: Path) -> list[str]:
    """The blocks of Python of a page."""
    return [block for kind, block in BLOCK.findall(page.read_text("utf-8")) if kind == "python"]


ALL = [(page, words) for page, words in commands() if words[0] in ("llamafactory-cli", "lmf", "make")]


def test_there_are_commands_and_nothing_else_is_passed_over() -> None:
    assert len(ALL) > 60
    others = {
        (page, words[0])
        for page, words in commands()
        if words[0] not in ("llamafactory-cli", "lmf", "make", *ELSEWHERE)
    }
    diagrams = {("training.md", "cli.main"), ("jobs.md", "jobs.db"), ("jobs.md", "runner.log"), ("jobs.md", "jobs/7/"),
                ("jobs.md", "trainer_log.jsonl"), ("jobs.md", "llamaboard_cache/")}  # fmt: skip
    assert others <= diagrams


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_command_is_one(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text("utf-8"), re.M), words[1]
        return
    command, rest = words[1], words[2:]
    if command == "COMMAND":
        return
    assert command in COMMANDS or command in OTHER_NAMES, command
    if command == "jobs":
        assert not rest or rest[0] in ("submit", "list", "show", "log", "cancel", "resume", "rm", "move")
        command, rest = ("export", rest[2:]) if rest[1:2] == ["export"] else ("train", rest[1:])
        if not words[3:] or words[2] != "submit":
            return
    if command in PLAIN or command == "convert-config" or "-h" in rest:
        return
    check(command, [word.replace("…", "x") for word in rest])


def check(command: str, words: list[str]) -> None:
    """Read the words as the command does; a file of the reader's own stands for the quickstart's."""
    if words and words[0].endswith(".yaml"):
        if words[0].startswith("examples/"):
            assert (ROOT / words[0]).is_file(), words[0]
        else:
            words[0] = "examples/quickstart.yaml"
    keys = [word.partition("=")[0].split(".")[0] for word in words if "=" in word and not word.startswith("--")]
    keys += [word[2:] for word in words if word.startswith("--")]
    assert set(keys) - set(OF_COMMANDS) <= known_keys(), set(keys) - known_keys()
    read: Any = READERS[command]
    plain = [word for word in words if word.partition("=")[0] not in OF_COMMANDS]
    more = ["--model_name_or_path", "M"] if command == "train" and "--dataset" in plain else []
    try:
        read([*plain, *more] if plain else {"model_name_or_path": "M"})
    except ConfigError as error:
        assert "is not installed" in str(error) or "needs the package" in str(error), error


def test_the_table_of_keys_is_the_one_that_files_are_read_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    script = runpy.run_path(str(ROOT / "scripts" / "dialect_tables.py"))
    assert (ROOT / "docs" / "coming_from.md").read_text("utf-8") == script["page"](), (
        "python scripts/dialect_tables.py > docs/coming_from.md"
    )


@pytest.mark.slow
def test_fields_of_trl_are_there() -> None:
    import trl

    known = known_keys()
    for name, rows in runpy.run_path(str(ROOT / "scripts" / "dialect_tables.py"))["TRL"].items():
        fields = getattr(trl, name).__dataclass_fields__
        assert set(rows) <= set(fields), set(rows) - set(fields)
        for text in rows.values():
            for code in re.findall(r"`([a-z_]+)", text):
                assert code in known or code == "dft", code


def test_links_lead_somewhere_and_each_page_is_on_the_site() -> None:
    nav = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not target.startswith(("http", "mailto")):
                assert (page.parent / target).exists(), (page.name, target)
        assert page.parent.name != "docs" or page.name in nav, page.name


@pytest.mark.parametrize(
    "page", [page for page in PAGES if python_of(page) and page.name != SIGNATURES], ids=lambda p: p.name
)
def test_python_of_the_pages_is_python(page: Path) -> None:
    for block in python_of(page):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llamafactory"):
                module = __import__(str(node.module), fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.slow
def test_the_page_on_python_runs(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for the model and its size: train, export, answer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    code = "\n".join(python_of(ROOT / "docs" / "python.md"))
    code = code.replace('"HuggingFaceTB/SmolLM2-135M-Instruct"', repr(str(tiny_llama)))
    code = code.replace('"do_train": True,', '"do_train": True, "max_steps": 2, "max_new_tokens": 4,')
    exec(compile(code, "docs/python.md", "exec"), {})
    assert (tmp_path / "models" / "mine" / "model.safetensors").is_file()
