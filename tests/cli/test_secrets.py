# SPDX-License-Identifier: Apache-2.0
"""Tokens and keys stand in nothing that is printed, logged or written."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from llamafactory.extras import secrets
from llamafactory.extras.logging import get_logger
from llamafactory.hparams import get_train_args, to_dict

TOKEN = "hf_QwErTyUiOp123456"


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_known", set())


@pytest.mark.parametrize("key", ["hub_token", "hf_hub_token", "--ms_hub_token", "swanlab_api_key", "HF_TOKEN", "token"])
def test_keys_that_hold_secrets(key: str) -> None:
    assert secrets.is_secret(key)


@pytest.mark.parametrize("key", ["skip_special_tokens", "add_tokens", "max_new_tokens", "template", "tokenized_path"])
def test_keys_that_hold_none(key: str) -> None:
    assert not secrets.is_secret(key)


def test_words_of_a_command() -> None:
    words = ["train", "a.yaml", f"hub_token={TOKEN}", f"--hf_hub_token={TOKEN}", "--om_hub_token", TOKEN, "seed=1"]
    assert secrets.mask_words(words) == [
        "train", "a.yaml", "hub_token=***", "--hf_hub_token=***", "--om_hub_token", "***", "seed=1"
    ]  # fmt: skip


def test_what_a_configuration_said_is_masked_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    args = get_train_args({
        "model_name_or_path": "m", "dataset": "d", "output_dir": "never", "hub_token": TOKEN,
        "ray_init_kwargs": None, "run_name": f"with {TOKEN}",
    })  # fmt: skip
    assert secrets.mask(f"401 for {TOKEN}") == "401 for ***"
    assert TOKEN not in str(to_dict(args)) and "'hub_token': '***'" in str(to_dict(args))
    get_logger("test")
    handler = logging.getLogger("llamafactory").handlers
    record = logging.LogRecord("llamafactory.test", logging.INFO, "f", 1, "pushing with %s", (TOKEN,), None)
    assert handler[0].format(record).endswith("pushing with ***")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:PASS@h/x.json: not there", "http://***@h/x.json: not there"),
        ("s3://KEY:PASS@bucket/x", "s3://***@bucket/x"),
        ("https://h/x?X-Amz-Signature=ab%2Fc&part=1", "https://h/x?X-Amz-Signature=***&part=1"),
        ("https://h/x?sv=1&sig=abc", "https://h/x?sv=1&sig=***"),
        ("http://h:80/a@b and eos_token=<|end|>", "http://h:80/a@b and eos_token=<|end|>"),
    ],
)
def test_addresses_show_neither_passwords_nor_signatures(text: str, shown: str) -> None:
    assert secrets.mask(text) == shown
    assert secrets.mask_values({"dataset": text}) == {"dataset": shown}


def test_nested_settings_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets.remember({"ray_init_kwargs": {"runtime_env": {"env_vars": {"WANDB_API_KEY": TOKEN}}}})
    assert secrets.mask(TOKEN) == "***"
    monkeypatch.setenv("MY_SERVICE_TOKEN", "another-secret-value")
    assert secrets.mask("see another-secret-value") == "see ***"
    assert secrets.mask_values({"a": ["x", {"api_key": "k", "b": "another-secret-value!"}]}) == {
        "a": ["x", {"api_key": "***", "b": "***!"}]
    }


def test_an_error_of_the_command_line_repeats_no_token(tmp_path: Path) -> None:
    """The value stands in the folder's name here, where nobody would look for it."""
    (tmp_path / TOKEN).touch()
    words = ["train", "model_name_or_path=m", "dataset=d", f"hub_token={TOKEN}", f"output_dir={tmp_path / TOKEN}"]
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory", *words],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "output_dir" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
