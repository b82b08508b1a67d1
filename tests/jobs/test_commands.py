# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli jobs`` as a user types it: what it prints, its exit codes, one line for every mistake."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llamafactory import cli
from llamafactory.jobs import JobStore
from llamafactory.jobs.commands import HELP

from .conftest import Workspace

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    """``typed("list")`` → exit code, stdout, stderr of `llamafactory-cli jobs list`, in this process."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llamafactory-cli", "jobs", *words])
        capfd.readouterr()
        code = cli.main()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return code, *capfd.readouterr()

    return run


@pytest.fixture
def here(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace is the working folder; its queue stands still, so that nothing needs to be waited for."""
    monkeypatch.chdir(workspace.folder)
    workspace.find_model = lambda: Path("org/model")
    for name in ("commands", "follow"):
        monkeypatch.setattr(f"llamafactory.jobs.{name}.ensure_runner", lambda folder: None)
    (workspace.folder / "my.yaml").write_text(yaml.safe_dump(workspace.keys()))
    return workspace


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("trian", 2, "jobs: unknown word 'trian'; expected one of list, show, log, submit, cancel, resume, copy, move"),
        ("list 3", 2, "jobs: expected `jobs list [--all]`"),
        ("show", 2, "jobs: expected `jobs show ID`"),
        ("show 1 2", 2, "jobs: expected `jobs show ID`"),
        ("show one", 2, "jobs: expected the number of a job, got 'one'; `jobs list` shows them"),
        ("show -1", 2, "jobs: expected the number of a job, got '-1'"),
        ("show ²", 2, "jobs: expected the number of a job, got '²'"),
        ("show 99999999999999999999", 2, "jobs: expected the number of a job, got '99999999999999999999'"),
        ("show 99", 1, "job 99: there is none of this number in "),
        ("log 99 -f", 1, "job 99: there is none of this number in "),
        ("log -f", 2, "jobs: expected `jobs log ID [-f]`"),
        ("cancel 99", 1, "job 99: there is none of this number in "),
        ("resume 1", 1, "job 1: is queued, only failed and cancelled jobs can be resumed"),
        ("resume", 2, "jobs: expected `jobs resume ID`"),
        ("move 1", 2, "jobs: expected `jobs move ID up|down`"),
        ("move 1 left", 2, "jobs: expected up or down, got 'left'"),
        ("copy", 2, "jobs: expected `jobs copy ID [key=value ...]`"),
        ("copy 1 up", 2, "jobs: expected `jobs copy ID [key=value ...]`"),
        ("copy 1 nonsense=3", 1, "unknown key nonsense; `llamafactory-cli train -h` lists all keys"),
        ("copy 1 max_steps=many", 1, "max_steps: expected int, got 'many'"),
        ("diff 1", 2, "jobs: expected `jobs diff ID ID`"),
        ("diff 1 x", 2, "jobs: expected the number of a job, got 'x'"),
        ("remove", 2, "jobs: expected `jobs remove ID`"),
        ("submit", 2, "jobs: expected `jobs submit [--name NAME] [--devices 0,1] [COMMAND] FILE.yaml [key=value ...]`"),
        ("submit train", 2, "jobs: expected `jobs submit "),
        ("submit --name", 2, "jobs: --name needs a value"),
        ("submit gone.yaml", 1, "gone.yaml: no such file"),
        ("submit chat my.yaml", 1, "chat: unexpected word; expected a .yaml or .json file first"),
        ("submit my.yaml learning_rate=fast", 1, "learning_rate: expected "),
        ("submit my.yaml hf_hub_token=hf_abcdefgh", 1, "hf_hub_token: a job is kept on disk and holds no secrets"),
        ("submit --devices a my.yaml", 1, "devices: expected numbers such as 0,1, got 'a'"),
        ("submit --name= my.yaml", 1, "name: expected 1 to 100 printable characters, got ''"),
        ("submit infer my.yaml max_new_tokens=x", 1, "max_new_tokens: expected "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(here: Workspace, typed: Typed, words: str, code: int, message: str) -> None:
    here.store.submit("train", here.keys())
    found, out, err = typed(*words.split())
    assert (found, out) == (code, "") and err.startswith(f"error: {message}") and err.count("\n") == 1, err
    assert len(here.store.list()) == 1


def test_a_folder_without_jobs(here: Workspace, typed: Typed) -> None:
    assert typed() == typed("list") == (0, "no jobs\n", "")
    code, out, err = typed("show", "1")
    assert (code, out) == (1, "") and err.startswith("error: jobs: there are none in ") and err.count("\n") == 1
    assert not (here.folder / "llamaboard_cache").exists()


def test_a_queue_as_it_is_shown(here: Workspace, typed: Typed) -> None:
    code, out, _ = typed("submit", "--name", "first one", "my.yaml")
    assert code == 0 and out.startswith("job 1 (first one) is submitted; `llamafactory-cli jobs log 1 -f` shows")
    assert "job 2 (my) is submitted, after 1 other;" in typed("submit", "my.yaml", "max_steps=7", "output_dir=b")[1]
    words = ["submit", "--devices=1", "export", "my.yaml", "export_dir=merged"]
    assert "job 3 (my) is submitted, after 2 others;" in typed(*words)[1]
    jobs = here.store.list()
    assert [job.command for job in jobs] == ["export", "train", "train"] and jobs[0].devices == "1"
    assert jobs[1].config["max_steps"] == 7 and jobs[1].config["output_dir"] == "b"
    rows = [re.split(r"\s{2,}", row) for row in typed()[1].splitlines()]
    assert rows[0] == ["id", "state", "progress", "took", "devices", "command", "name"]
    assert rows[1:] == [
        ["3", "queued (3.)", "1", "export", "my"],
        ["2", "queued (2.)", "all", "train", "my"],
        ["1", "queued (1.)", "all", "train", "first one"],
    ]
    assert typed("move", "3", "up") == (0, "queue: 1 (first one), 3 (my), 2 (my)\n", "")
    assert typed("diff", "1", "2")[1] == "output_dir: saves/run | b\nmax_steps: 5 | 7\n"
    assert typed("cancel", "1") == (0, "job 1: cancelled\n", "")
    assert "job 4 (first one) is submitted" in typed("resume", "1")[1]
    assert "job 5 (run-2) is submitted" in typed("copy", "1", "max_steps=9")[1]
    assert here.store.get(5).config["max_steps"] == 9 and here.store.get(5).config["output_dir"] == "saves/run-2"
    shown = typed("show", "5")[1]
    facts, _, config = shown.partition("\n\n")
    assert "state:      queued\n" in facts and "comes from: job 1" in facts
    assert yaml.safe_load(config) == here.store.get(5).config
    assert typed("log", "5") == (0, "", "job 5: queued: it has said nothing yet\n")
    assert typed("remove", "1") == (0, "job 1 is forgotten\n", "")


def test_only_the_newest_are_listed(here: Workspace, typed: Typed) -> None:
    for number in range(23):
        here.store.submit("train", {"output_dir": str(number)})
    lines = typed()[1].splitlines()
    assert len(lines) == 22 and lines[-1] == "older ones: `llamafactory-cli jobs list --all`"
    assert len(typed("list", "--all")[1].splitlines()) == 24


def test_what_is_submitted_reads_the_same(here: Workspace, typed: Typed) -> None:
    """The file of a job, which the run reads, gives the arguments that the user's file and words give."""
    from llamafactory.hparams import get_train_args

    root = Path(__file__).parents[2]
    os.chdir(root)
    examples = [*(root / "examples").glob("*.yaml"), *(root / "examples").glob("train_[fl]*/*.yaml")]
    assert len(examples) > 5
    from llamafactory.jobs.commands import _checked

    for path in examples:
        words = [str(path.relative_to(root)), "overwrite_output_dir=true", "learning_rate=3e-5", "save_steps=7"]
        config = json.loads(json.dumps(_checked("train", words)))
        again = yaml.safe_load(yaml.safe_dump(config, allow_unicode=True, sort_keys=False))
        args = get_train_args(words)
        found = get_train_args(again)
        for section in ("model", "data", "training", "finetuning", "tuner", "rlhf", "generating"):
            assert getattr(found, section) == getattr(args, section), path


def test_an_output_that_nobody_reads_to_its_end(here: Workspace) -> None:
    """`jobs list | head -1` says nothing more."""
    for number in range(5):
        here.store.submit("train", {"output_dir": str(number)})
        here.store.cancel(number + 1)
    done = subprocess.run(
        ["bash", "-c", '"$0" -m llamafactory jobs list | head -1; exit ${PIPESTATUS[0]}', sys.executable],
        cwd=here.folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("id  state")


def test_help_of_jobs(typed: Typed) -> None:
    assert typed("-h") == typed("submit", "--help") == (0, HELP, "")
    assert all(f"\n  {word} " in HELP for word in ("list", "show", "log", "submit", "cancel", "resume", "copy", "move"))


def test_reading_along_ends_with_the_run(workspace: Workspace) -> None:
    """All of its output, then how it ended; the run fails by a wrong key, after a second of waiting in the queue."""
    store: JobStore = workspace.store
    store.submit("train", {"model_name_or_path": "m", "dataset": "d", "nonsense": 1})
    done = workspace.cli("log", "1", "-f")
    why = (
        "error: llamaboard_cache/jobs/1/config.yaml:3: unknown key nonsense; `llamafactory-cli train -h` lists all keys"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{why}\njob 1: failed: {why}\n", "")


def test_reading_along_through_a_change_of_files(here: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.jobs import follow
    from llamafactory.jobs.log_file import RotatedLog

    monkeypatch.setattr(follow, "POLL", 0.01)
    store = here.store
    job = store.submit("train", {})
    store.begin(job.id)
    log, written, seen = RotatedLog(job.folder / "output.log", most=100), [""], [""]

    def go_on() -> None:  # in the place of looking at the runner
        for number in range(7):
            text = f"line {len(written)}.{number}\n"
            written.append(text)
            log.write(text.encode())
        if len(written) > 300:
            store.finish(job.id, "done", 0, "", time.time())

    monkeypatch.setattr(follow, "_LOOK", 0.0)
    monkeypatch.setattr(follow, "ensure_runner", lambda folder: go_on())
    ended = follow.follow(store, job, seen.append)
    assert ended.state == "done" and "".join(seen) == "".join(written)


@pytest.mark.slow
def test_a_newcomer_s_hour(workspace: Workspace) -> None:
    """Three runs, a look, reading along, one cancelled and gone on with."""
    (workspace.folder / "my.yaml").write_text(yaml.safe_dump(workspace.keys(max_steps=300)))
    for name in ("a", "b", "c"):
        assert workspace.cli("submit", "my.yaml", f"output_dir=saves/{name}").returncode == 0
    assert workspace.cli("move", "3", "up").stdout == "queue: 3 (my), 2 (my)\n"
    workspace.step(1, 5)
    assert re.search(r"^1 +running +\d+/300 +0:00:\d\d +all +train +my$", workspace.cli().stdout, re.MULTILINE)
    cancelled = workspace.cli("cancel", "1")
    assert cancelled.stdout == "job 1: asked to save and end; again = at once\njob 1: cancelled\n", cancelled
    assert workspace.cli("resume", "1").stdout.startswith("job 4 (my) is submitted, after 2 others; ")
    read = workspace.cli("log", "3", "-f")
    assert "step 300/300" in read.stdout and read.stdout.endswith("job 3: done\n") and read.stderr == ""
    assert [workspace.end_of(number).state for number in (4, 2)] == ["done", "done"]
    resumed = workspace.store.get(4)
    assert "checkpoint" in workspace.output(resumed) and "step 300/300" in workspace.output(resumed)
