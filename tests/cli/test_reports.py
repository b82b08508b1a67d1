# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind besides weights: manifest and curves; log lines; optional packages; seeds."""

from __future__ import annotations

import json
import math

import pytest

from llamafactory.extras.device import Device, probe
from llamafactory.extras.errors import ConfigError
from llamafactory.extras.logging import get_logger
from llamafactory.extras.manifest import write_manifest
from llamafactory.extras.packages import require, version_of
from llamafactory.extras.plotting import plot_loss, smooth
from llamafactory.extras.seeds import set_seed


def test_manifest(tmp_path):
    import torch

    device = Device("cpu", 0, 1, bf16=True, fp16=False, memory_bytes=5, name="a CPU")
    config = {"training": {"seed": 3}}
    path = write_manifest(
        tmp_path / "run", config, {"identity": "abc"}, device=device, seeds={"seed": 3, "data_seed": None}
    )
    found = json.loads(path.read_text("utf-8"))
    assert path == tmp_path / "run" / "run_manifest.json"
    assert found["config"] == config and found["data_fingerprint"] == {"identity": "abc"}
    assert found["seeds"] == {"seed": 3, "data_seed": None} and found["device"]["name"] == "a CPU"
    assert found["packages"]["torch"] == torch.__version__


def test_curves_are_drawn_where_there_are_points(tmp_path):
    history = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
    history += [{"step": 4, "eval_a/b_loss": 1.0}, {"step": 8, "eval_a/b_loss": 0.5}]
    history += [{"step": 4, "eval_loss": float("nan")}, {"step": 8, "eval_loss": 2.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    written = plot_loss(tmp_path, ["loss", "eval_a/b_loss", "eval_loss", "absent"])
    assert [path.name for path in written] == ["training_loss.png", "training_eval_a_b_loss.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in written)


def test_smoothing_is_the_moving_average_it_says():
    values = [float(number % 7) for number in range(40)]
    weight = 1.8 * (1 / (1 + math.exp(-2)) - 0.5)
    expected = [values[0]]
    for value in values[1:]:
        expected.append(expected[-1] * weight + value * (1 - weight))
    assert smooth(values) == pytest.approx(expected)
    assert smooth([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0]) and smooth([]) == []


def test_log_lines_speak_once_and_on_the_first_process(monkeypatch, capsys):
    logger = get_logger("llamafactory.test_reports")
    logger.warning_once("%s is said once", "this")
    logger.warning_once("this is said once")
    logger.info_rank0("hello")
    monkeypatch.setenv("RANK", "1")
    logger.info_rank0("not here")
    logger.warning_once("nor here")
    shown = capsys.readouterr().err
    assert shown.count("this is said once") == 1 and "hello" in shown and "here" not in shown


def test_a_missing_package_names_key_and_command():
    with pytest.raises(ConfigError, match=r"^report_to: needs the package absent_package; pip install absent-package$"):
        require("absent_package", "report_to", "absent-package")
    assert require("json", "x").loads("1") == 1
    assert version_of("absent-package") is None


def test_a_package_whose_own_requirement_is_missing_keeps_its_error(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import absent_requirement\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="absent_requirement"):
        require("half_there", "x")


def test_one_seed_for_all():
    import random

    import numpy
    import torch

    def draw() -> list[float]:
        return [random.random(), float(numpy.random.rand()), float(torch.rand(()))]

    set_seed(5)
    first = draw()
    set_seed(6)
    other = draw()
    set_seed(5)
    assert draw() == first and all(a != b for a, b in zip(first, other, strict=True))


def test_the_cpu_is_probed(monkeypatch):
    from llamafactory.extras import device as module

    for flags, bf16 in ((("avx2", "avx512f"), False), (("amx_bf16",), True), (("avx512_bf16",), True)):
        monkeypatch.setattr(module, "cpu_flags", lambda flags=flags: frozenset(flags))
        found = probe(use_cpu=True)
        assert (found.type, found.bf16, found.fp16, found.count) == ("cpu", bf16, False, 1)
        assert found.memory_bytes > 2**28
