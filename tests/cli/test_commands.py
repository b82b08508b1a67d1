# SPDX-License-Identifier: Apache-2.0
"""The commands as a user types them: output, exit codes, and what is not imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llamafactory.launcher import COMMANDS

HEAVY = ("torch", "transformers", "datasets", "accelerate", "peft", "numpy", "yaml")


def cli(*words: str, cwd=None, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-m", "llamafactory", *words], capture_output=True, text=True, cwd=cwd, env=env, timeout=120
    )


def imported_by(*words: str) -> set[str]:
    """Run a command in a fresh interpreter and return which heavy packages it imported."""
    code = (
        "import sys, json; sys.argv = ['llamafactory-cli', *sys.argv[1:]]\n"
        "from llamafactory.cli import main\n"
        "code = main()\n"
        "print('\\n' + json.dumps([code, [m for m in sys.modules if '.' not in m]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules) & set(HEAVY)


@pytest.mark.parametrize("words", [["version"], ["help"], [], ["env", "-h"], ["version", "--help"]], ids=str)
def test_light_commands_import_no_library(words):
    assert imported_by(*words) == set()


@pytest.mark.parametrize(
    "words",
    [
        ["env"],
        ["export", "--help"],
        ["jobs"],
        ["jobs", "-h"],
        *([name, "-h"] for name in ("train", "chat", "preview", "preprocess", "check-data")),
    ],
    ids=str,
)
def test_env_and_help_import_neither_torch_nor_transformers(words):
    assert imported_by(*words) <= {"yaml"}


def test_version_and_help_print_what_they_say():
    from llamafactory import __version__

    assert cli("version").stdout == f"llamafactory {__version__}\n"
    listed = cli("help").stdout
    assert all(f"\n  {name} " in listed for name in COMMANDS)
    assert cli().stdout == listed and cli("--help").stdout == listed


def test_version_is_the_projects():
    import tomllib
    from pathlib import Path

    from llamafactory import __version__

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "version" in project.get("dynamic", []) or project["version"] == __version__


def test_train_help_lists_every_key_with_type_default_choices_and_meaning():
    from llamafactory.hparams.args import SHARED_SECTIONS, TRAINING_SECTIONS
    from llamafactory.hparams.schema import keys_of, plugin_sections

    text = cli("train", "-h").stdout
    lines = text.splitlines()
    for section in (*SHARED_SECTIONS.values(), *TRAINING_SECTIONS.values(), *plugin_sections().values()):
        for key in keys_of(section).values():
            place = next(number for number, line in enumerate(lines) if line.startswith(f"  {key.name}: "))
            assert len(lines[place + 1].strip()) >= 5, f"{key.name} has no meaning"
    assert "  lora_rank: int (1 or more) = 8\n" in text
    assert "  overlong: one of truncate, drop, error, split, keep_start, keep_end = truncate\n" in text


def test_help_of_a_command_holds_only_what_it_reads():
    assert "export_dir:" in cli("export", "-h").stdout
    chat = cli("chat", "-h").stdout
    assert "temperature:" in chat and "learning_rate:" not in chat and "export_dir:" not in chat


def test_env_names_the_packages():
    from importlib.metadata import version

    listed = cli("env").stdout
    for package in ("torch", "transformers", "peft"):
        assert any(line.split() == ["-", f"{package}:", version(package)] for line in listed.splitlines())
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in listed and "cpu:" in listed


def test_unknown_command_lists_all_and_exits_2():
    done = cli("trian")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: unknown command 'trian'; commands: {', '.join(COMMANDS)}\n"


def test_webui_takes_no_file_and_says_so():
    done = cli("webui", "x.yaml")
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith("error: webui: takes no 'x.yaml'")


GOOD = "model_name_or_path: org/m\ndataset: d\n"
BROKEN = {
    "unknown key": (GOOD + "lora_rnak: 8\n", 1, "unknown key lora_rnak; did you mean lora_rank?"),
    "wrong type": (GOOD + "max_steps: many\n", 1, "c.yaml:3: max_steps: expected int, got 'many'"),
    "wrong choice": (GOOD + "mix_strategy: blend\n", 1, "mix_strategy: expected one of concat"),
    "not yaml": (GOOD + "a: [1\n", 1, "c.yaml:4: not YAML"),
    "tab": (GOOD + "fsdp_config:\n\ta: 1\n", 1, "a tab"),
    "twice": (GOOD + "dataset: e\n", 1, "c.yaml:3: dataset is given twice, first in line 2"),
    "list": ("- a\n", 1, "c.yaml:1: expected key: value lines"),
    "empty": ("", 1, "the file is empty"),
    "no model": ("dataset: d\n", 1, "model_name_or_path: missing"),
    "no dataset": ("model_name_or_path: m\n", 1, "dataset: missing"),
    "rule": (GOOD + "val_size: 0.1\neval_dataset: e\n", 1, "val_size: cannot be combined with eval_dataset"),
    "unknown stage": (GOOD + "stage: sftt\n", 1, "stage: expected one of pt, sft"),
    "unknown tuner": (GOOD + "finetuning_type: lorra\n", 1, "finetuning_type: expected one of"),
    "not built": (GOOD + "mixture_of_depths: load\n", 2, "mixture of depths, which is not built yet in this version"),
    "two names": (GOOD + "no_cuda: true\nuse_cpu: false\n", 1, "no_cuda is the older name of use_cpu"),
    "output is a file": (GOOD + "output_dir: c.yaml\n", 1, "output_dir: c.yaml is a file"),
    "null": (GOOD + "seed: null\n", 1, "seed: expected int, got null"),
    "python object": (GOOD + "seed: !!python/name:os.system\n", 1, "not YAML"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_configurations_are_one_line(tmp_path, monkeypatch, capfd, name):
    """The whole path of ``train c.yaml``, in this process: exit code, one line, no traceback."""
    from llamafactory.cli import main

    content, code, message = BROKEN[name]
    (tmp_path / "c.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "train", "c.yaml"])
    assert main() == code
    shown = capfd.readouterr().err
    assert shown.startswith("error: ") and message in shown and shown.count("\n") == 1


def test_broken_calls_exit_without_traceback(tmp_path):
    for words, code, message in (
        (["train"], 2, "no configuration given"),
        (["train", "absent.yaml"], 1, "absent.yaml: no such file"),
        (["chat", "--temprature", "1"], 1, "did you mean temperature?"),
        (["export", "cfg.toml"], 1, "cfg.toml: unexpected file"),
    ):
        done = cli(*words, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert message in done.stderr and "Traceback" not in done.stderr


def test_ctrl_c_is_one_line_and_other_errors_keep_their_traceback(monkeypatch, capsys):
    from llamafactory import cli as module

    def interrupted() -> int:
        raise KeyboardInterrupt

    def broken() -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(module, "launch", interrupted)
    assert module.main() == 130
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.setattr(module, "launch", broken)
    with pytest.raises(ValueError, match="a bug"):
        module.main()


def test_a_closed_pipe_is_quiet():
    done = subprocess.run(
        ["sh", "-c", f"'{sys.executable}' -m llamafactory train -h | head -n 1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == "" and done.stdout.startswith("llamafactory-cli train")
