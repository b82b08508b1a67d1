# SPDX-License-Identifier: Apache-2.0
"""Traces and times of a run, compared with what the run is known to have done."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.train.tuner import run_exp


def test_a_trace_of_the_steps_that_were_asked_for(keys: Any, tmp_path: Any) -> None:
    run_exp(keys(max_steps=5, enable_torch_profiler=True, profiler_active_steps=2, profiler_with_stack=False))
    [trace] = (tmp_path / "run" / "profiler").glob("rank0.*.pt.trace.json")
    events = json.loads(trace.read_text())["traceEvents"]
    steps = {event["name"] for event in events if re.fullmatch(r"ProfilerStep#\d+", event.get("name", ""))}
    assert steps == {"ProfilerStep#2", "ProfilerStep#3"}
    assert any(event.get("name") in ("aten::mm", "aten::addmm") for event in events)


def test_modules_are_timed(keys: Any, tmp_path: Any, tiny_llama: Any) -> None:
    layers = json.loads((tiny_llama / "config.json").read_text())["num_hidden_layers"]
    run_exp(keys(max_steps=2, gradient_accumulation_steps=2, profile_modules="model.layers.*.mlp,model.norm"))
    times = json.loads((tmp_path / "run" / "profiler" / "module_times.json").read_text())
    assert set(times) == {"model.norm", *(f"model.layers.{number}.mlp" for number in range(layers))}
    for name, row in times.items():
        assert row["calls"] == 4, name
        assert row["forward_seconds"] > 0 and row["backward_seconds"] > 0, name


def test_a_pattern_that_matches_nothing_is_one_line(keys: Any) -> None:
    with pytest.raises(ConfigError, match=r"^profile_modules: no.such matches no module; there are model, "):
        run_exp(keys(max_steps=1, profile_modules="no.such"))


def test_too_few_steps_for_a_cycle_are_said(keys: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_exp(keys(max_steps=1, enable_torch_profiler=True))
    assert "profiler: no trace; a cycle takes 3 steps" in capsys.readouterr().err
