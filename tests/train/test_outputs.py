# SPDX-License-Identifier: Apache-2.0
"""What a run leaves in its folder, and what it says when it cannot start."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.plotting import plot_loss
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.plugins import resolve
from llamafactory.train.batching.packing import settle_packing
from llamafactory.train.callbacks.reporters import TRACKERS, trackers
from llamafactory.train.saving.checkpoints import checkpoints, rotate
from llamafactory.train.training_arguments import transformers_arguments
from llamafactory.train.tuner import run_exp

from .conftest import Keys
from .running import log_of, train


def test_everything_a_user_looks_for(keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    run = train(
        keys(save_strategy="steps", save_steps=3, plot_loss=True, report_to="tensorboard", hf_hub_token="hf_private",
             include_effective_tokens_per_second=True)
    )  # fmt: skip
    present = {path.name for path in run.iterdir()}
    assert present >= {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md",
        "all_results.json", "train_results.json", "trainer_state.json", "trainer_log.jsonl", "training_loss.png",
        "run_manifest.json", "checkpoint-3", "checkpoint-5", "runs",
    }  # fmt: skip
    assert not [name for name in present if name.startswith(".")]
    assert {path.suffix for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pickle")} <= {".pt"}
    assert not list(run.rglob("training_args.bin"))
    for path in run.rglob("*"):
        assert not path.is_file() or b"hf_private" not in path.read_bytes(), path
    (run / "by-umask").touch()  # who serves the model may be another user than who trained it
    assert len({path.stat().st_mode for path in run.rglob("*") if path.is_file()}) == 1
    with safe_open(run / "adapter_model.safetensors", "pt") as tensors:
        assert not [name for name in tensors.keys() if "lora" not in name]  # noqa: SIM118
    results = json.loads((run / "train_results.json").read_text())
    assert results.keys() >= {"train_loss", "total_tokens", "trained_tokens_per_second", "effective_tokens_per_sec"}
    last = log_of(run)[-1]
    assert last.keys() >= {"current_steps", "total_steps", "loss", "lr", "epoch", "percentage", "elapsed_time"}
    assert last.keys() >= {"remaining_time", "throughput", "total_tokens"} and last["percentage"] == 100
    printed, shown = capsys.readouterr()
    rates = re.findall(r"tok/s ([\d,.]+)", shown)  # what is on the screen is what is in the log
    logged = [line["throughput"] for line in log_of(run)]
    assert [float(rate.replace(",", "")) for rate in rates] == pytest.approx(logged, rel=1e-3) and len(logged) == 5
    assert "llamafactory-cli chat" in printed and "llamafactory-cli export" in printed


def test_figures_are_of_all_steps(keys: Keys, tmp_path: Path) -> None:
    """Steps after the last multiple of logging_steps count too: with a log a step, the mean of the same losses."""
    every = train(keys(max_steps=5, logging_steps=1, save_strategy="no"))
    wanted = json.loads((every / "train_results.json").read_text())
    losses = [line["loss"] for line in log_of(every)]
    assert len(losses) == 5 and wanted["train_loss"] == pytest.approx(sum(losses) / 5, rel=1e-5)
    for steps in (3, 10):
        run = train(keys(max_steps=5, logging_steps=steps, save_strategy="no", output_dir=str(tmp_path / f"{steps}")))
        found = json.loads((run / "train_results.json").read_text())
        assert found["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-4)
        assert found["total_tokens"] == wanted["total_tokens"] > 0


def test_a_token_on_the_command_line_is_repeated_nowhere(
    keys: Keys, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = keys(max_steps=1, hub_token="hf_private_token", report_to="tensorboard")
    words = [f"{key}={value}" for key, value in given.items()]
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", "train", *words])
    run_exp()
    printed = capfd.readouterr()
    assert "hf_private" not in printed.out + printed.err and "llamafactory-cli chat" in printed.out
    files = [path for path in Path(given["output_dir"]).rglob("*") if path.is_file()]
    assert "run_manifest.json" in {path.name for path in files}
    assert [path for path in files if b"hf_private" in path.read_bytes()] == []


def test_the_saved_tokenizer_renders_what_was_trained(keys: Keys) -> None:
    from llamafactory.data.messages import Message
    from llamafactory.data.template_loader import get_template
    from llamafactory.model import load_tokenizer

    given = keys(template="llama3", max_steps=1)
    run = train(given)
    args = get_train_args(given | {"output_dir": str(run / "other")})
    template = get_template(load_tokenizer(args.model), args.data)
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "?"},
    ]
    stock = AutoTokenizer.from_pretrained(run).apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert stock == template.encode_prompt([Message.of(m["role"], m["content"]) for m in messages])


def test_finished_runs_are_not_overwritten(keys: Keys) -> None:
    settings = keys(max_steps=1)
    train(settings)
    with pytest.raises(ConfigError, match="already holds weights"):
        train(settings)
    train(settings | {"overwrite_output_dir": True})


def test_the_folder_holds_the_last_model_alone(keys: Keys) -> None:
    """An adapter beside the weights of a later full run would be loaded on top of them, and the other way round."""
    short = {"max_steps": 1, "overwrite_output_dir": True}
    adapter = {path.name for path in train(keys(**short)).glob("*.safetensors")}
    (train(keys(**short)) / ".rehearsal-x1y_z").mkdir()  # of a killed run
    run = train(keys(**short, finetuning_type="full"))
    assert {path.name for path in run.glob("*.safetensors")} == {"model.safetensors"}
    assert not (run / "adapter_config.json").exists() and not list(run.glob(".rehearsal-*"))
    assert get_infer_args(keys(output_dir=str(run))).model.adapter_name_or_path is None
    run = train(keys(**short))
    assert {path.name for path in run.glob("*.safetensors")} == adapter == {"adapter_model.safetensors"}
    assert not (run / "config.json").exists() and not (run / "generation_config.json").exists()


def test_loraplus_and_accumulated_padding_free_false(keys: Keys) -> None:
    run = train(keys(loraplus_lr_ratio=16.0, save_strategy="steps", save_steps=5, gradient_accumulation_steps=2))
    import torch

    groups = torch.load(run / "checkpoint-5" / "optimizer.pt", weights_only=True)["param_groups"]
    rates = {group["initial_lr"] for group in groups if group["params"]}
    assert rates == {1e-3, 16e-3}


@pytest.mark.parametrize("why", [{"flash_attn": "sdpa"}, {"padding_free": False}])
def test_packing_needs_isolation_and_is_refused_before_any_row_is_read(keys: Keys, why: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="packing: packed rows need isolating attention"):
        train(keys(packing=True, dataset="/no/such/file.jsonl", **why))


def test_packing_by_default_falls_back_and_says_so(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    run = train(keys(stage="pt", flash_attn="sdpa", max_steps=1))
    assert "packing: off for this run, one sequence a row: this model's attention cannot keep" in caplog.text
    assert (run / "train_results.json").is_file()


def test_no_training_data(keys: Keys, alpaca: Path) -> None:
    with pytest.raises(ConfigError, match="dataset"):
        train(keys(dataset=None, eval_dataset=str(alpaca)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"report_to": "nosuch"}, "report_to: unknown tracker 'nosuch'; choices: none, all, tensorboard"),
        ({"report_to": "trackio"}, "report_to: trackio: needs the package trackio; pip install trackio"),
        ({"use_swanlab": True}, "report_to: swanlab: needs the package swanlab"),
    ],
)
def test_trackers_are_checked_before_the_model_is_loaded(keys: Keys, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(keys(**given, model_name_or_path="/no/such/model"))
    assert message in str(error.value)


def test_report_to(keys: Keys) -> None:
    assert trackers(get_train_args(keys(report_to="none"))) == []
    assert trackers(get_train_args(keys(report_to=["tensorboard"]))) == ["tensorboard"]
    assert set(trackers(get_train_args(keys(report_to="all")))) <= set(TRACKERS)


def test_conversion_of_arguments(keys: Keys) -> None:
    arguments = transformers_arguments(
        get_train_args(keys(warmup_steps=0.1, lr_scheduler_type="cosine", adam_beta2=0.95))
    )
    assert arguments.adam_beta2 == 0.95 and arguments.lr_scheduler_type == "cosine"
    assert not (arguments.bf16 or arguments.fp16 or arguments.remove_unused_columns or arguments.gradient_checkpointing)
    full = transformers_arguments(get_train_args(keys(bf16=True, finetuning_type="full")))
    lora = transformers_arguments(get_train_args(keys(bf16=True)))
    assert full.bf16 and not lora.bf16, "LoRA on bf16 weights needs no autocast"
    with pytest.raises(ConfigError, match="training arguments: "):
        transformers_arguments(
            get_train_args(keys(load_best_model_at_end=True, eval_strategy="epoch", save_strategy="steps", val_size=2))
        )


def test_a_sampling_strategy_that_is_not_built(keys: Keys) -> None:
    with pytest.raises(ConfigError, match="train_sampling_strategy: batch_rebalance is not built"):
        train(keys(train_sampling_strategy="batch_rebalance"))


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (1, 2, 10, 11, 12):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    rotate(tmp_path, 3, str(tmp_path / "checkpoint-2"))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-11", "checkpoint-12"]
    rotate(tmp_path, 1, None)
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-12"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-12"]


def test_a_run_that_would_do_nothing_is_refused(keys: Keys) -> None:
    with pytest.raises(ConfigError, match=r"^do_train: false, and neither do_eval nor do_predict"):
        train(keys(do_train=False))


@pytest.mark.parametrize(
    ("log", "words"),
    [(None, "no such folder"), ("", "no log of a run"), ("[]", "no log of a run"), ('{"log_history": [1]}', "no list")],
)
def test_curves_of_a_folder_without_a_log(tmp_path: Path, log: str | None, words: str) -> None:
    folder = tmp_path / "run"
    if log is not None:
        folder.mkdir()
        with pytest.raises(ConfigError, match=rf"^output_dir: {folder} has no trainer_state.json"):
            plot_loss(folder)
        (folder / "trainer_state.json").write_text(log)
    with pytest.raises(ConfigError, match=rf"^output_dir: .*{words}"):
        plot_loss(folder)


@pytest.mark.parametrize(
    "written",
    [
        {"model_type": "lfm2", "layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
        {"model_type": "qwen3_5_text", "num_hidden_layers": 4},
        {"model_type": "falcon_h1", "num_hidden_layers": 2},
        {"model_type": "mamba", "num_hidden_layers": 2},
        {"model_type": "paligemma"},
    ],
    ids=lambda written: str(written["model_type"]),
)
def test_packing_of_families_that_cannot_pack(written: dict[str, Any], keys: Keys, tmp_path: Path) -> None:
    """Asked of config.json alone, before any row: a wish is refused, the default of stage pt falls back."""
    (tmp_path / "config.json").write_text(json.dumps(written))
    for stage in ("pt", "sft"):
        asked = get_train_args(keys(model_name_or_path=str(tmp_path), stage=stage, packing=True))
        with pytest.raises(ConfigError, match="packing: packed rows need isolating attention, but this model's"):
            settle_packing(resolve("stages", stage).processor, asked)
    unasked = get_train_args(keys(model_name_or_path=str(tmp_path), stage="pt"))
    assert settle_packing(resolve("stages", "pt").processor, unasked).data.packing is False
