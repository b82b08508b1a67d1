# SPDX-License-Identifier: Apache-2.0
"""What an export announces of other programs is what they do. `make test-engines`; writes the table of docs/export.md.

Each program reads the exports of all tiny models; its logits are compared with those of transformers 5 over a text that
is longer than windows and original lengths, and over one that is shorter than the latter.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from llamafactory.export.export import run_export
from llamafactory.export.gguf.limits import llama_cpp_limits
from llamafactory.export.readers import NOT_CHECKED, REFUSED, RIGHT, SETTING, WRONG, Verdict
from llamafactory.extras.errors import ConfigError

from .settings import LENGTH, SETTINGS, SHORT, make

pytestmark = pytest.mark.engines

CACHE = Path(__file__).resolve().parents[2] / ".cache"
OWN = CACHE.parent / ".venv" / "bin" / "python"
VLLM = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
# Program, folder of packages in front of ours, largest difference of a logit. All compute in float32; llama.cpp's
# kernels for processors round the inputs of each product, which makes up to 7e-3 here, where a fault makes 0.5 or more.
READERS: dict[str, tuple[Path, str | None, float]] = {
    "transformers 4": (OWN, "transformers4", 1e-4),
    "vLLM": (CACHE / "vllm-env" / "bin" / "python", None, 1e-4),
    "llama.cpp/Ollama": (CACHE / "llamacpp-env" / "bin" / "python", None, 2e-2),
    "mlx-lm": (OWN, "mlx", 1e-4),
    "CTranslate2": (OWN, "ctranslate2", 1e-4),
    "onnxruntime-genai": (OWN, "onnxruntime-genai", 1e-4),
}
TABLE = CACHE / "readers" / "table.md"


@dataclass(frozen=True)
class Export:
    folder: Path
    model: Any
    announced: dict[str, Verdict]

    def job(self, texts: list[list[int]], length: int | None) -> str:
        files = [str(file) for file in self.folder.glob("*.gguf")]
        job = {"folder": str(self.folder), "gguf": next(iter(files), None), "prompts": texts, "length": length}
        return json.dumps(job)


@pytest.fixture(scope="session")
def exports(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Export]:
    return {name: export(name, tiny_llama, tmp_path_factory.mktemp("export")) for name in SETTINGS}


@torch.inference_mode()
def export(name: str, words: Path, folder: Path) -> Export:
    base, out = make(name, words, folder / "base"), folder / "out"
    keys = {"model_name_or_path": str(base), "template": "chatml", "export_dir": str(out)}
    if llama_cpp_limits(AutoConfig.from_pretrained(base)).refusal is None:
        run_export({**keys, "export_gguf": "f32"})
    else:
        with pytest.raises(ConfigError):
            run_export({**keys, "export_gguf": "f32"})
        run_export(keys)
    announced = [Verdict(**entry) for entry in json.loads((out / "compatibility.json").read_text())["readers"]]
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    return Export(out, model, {verdict.reader: verdict for verdict in announced})


@contextmanager
def started(reader: str) -> Iterator[subprocess.Popen[str]]:
    program, packages, _ = READERS[reader]
    assert program.exists() and (packages is None or (CACHE / "readers" / packages).is_dir()), "make test-engines"
    variables = {**os.environ, **VLLM, "HF_HUB_OFFLINE": "1"}
    variables["PYTHONPATH"] = str(CACHE / "readers" / packages) if packages else ""
    process = subprocess.Popen(
        [program, Path(__file__).with_name("worker.py"), reader],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=variables,
    )  # fmt: skip
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def ask(process: subprocess.Popen[str], job: str) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    print(job, file=process.stdin, flush=True)
    line = process.stdout.readline()
    assert line, f"the program ended with {process.wait()} on {job[:200]}"
    answer: dict[str, Any] = json.loads(line)
    return answer


@torch.inference_mode()
def seen(
    reader: str, made: Export, process: subprocess.Popen[str], texts: list[list[int]], length: int | None = None
) -> tuple[str, str]:
    """What the program makes of the texts, and the largest difference or the error."""
    answer = ask(process, made.job(texts, length))
    assert str(made.announced[reader].version).endswith(answer["version"])
    if "error" in answer:
        return REFUSED, answer["error"]
    worst = 0.0
    for text, theirs in zip(texts, answer["logits"], strict=True):
        ours = made.model(torch.tensor([text])).logits[0, -len(theirs) :]
        if reader == "vLLM":  # it gives logarithms of probabilities
            ours = ours.log_softmax(-1)
        worst = max(worst, (torch.tensor(theirs) - ours).abs().nan_to_num(float("inf")).max().item())
    return RIGHT if worst < READERS[reader][2] else WRONG, f"{worst:.1e}"


@pytest.fixture(scope="session")
def table(exports: dict[str, Export]) -> Iterator[dict[str, dict[str, str]]]:
    """Rows by the names of the settings; written when all programs were asked."""
    rows: dict[str, dict[str, str]] = {name: {} for name in exports}
    yield rows
    if all(row.keys() == READERS.keys() for row in rows.values()):
        head = ["| model | " + " | ".join(READERS) + " |", "|---" * (len(READERS) + 1) + "|"]
        body = [f"| {name} | " + " | ".join(row[reader] for reader in READERS) + " |" for name, row in rows.items()]
        TABLE.write_text("\n".join([f"Run on {datetime.date.today()}.", "", *head, *body]) + "\n")


@pytest.mark.parametrize("reader", READERS)
def test_readers(reader: str, exports: dict[str, Export], table: dict[str, dict[str, str]]) -> None:
    ids = torch.randint(5, 200, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [ids, ids[:SHORT]]
    faults = []
    with started(reader) as process:
        for name, made in exports.items():
            announced = made.announced[reader]
            if reader == "llama.cpp/Ollama" and not list(made.folder.glob("*.gguf")):
                assert announced.verdict in (REFUSED, NOT_CHECKED), name
                table[name][reader] = announced.verdict
                continue
            found, figure = seen(reader, made, process, texts)
            table[name][reader] = found if found == REFUSED else f"{found} ({figure})"
            if announced.verdict == SETTING and found != RIGHT:  # else the setting is not needed
                assert announced.limit is not None
                short = [text[: announced.limit - 2] for text in texts]  # vLLM wants room for two more
                within, figure = seen(reader, made, process, short, announced.limit)
                found = SETTING if within == RIGHT else found
                table[name][reader] = f"right up to {announced.limit} tokens ({figure})"
            print(reader, name, found, figure, flush=True)
            if found != announced.verdict:
                faults.append(f"{name}: announced {announced.verdict}, seen {found} ({figure})")
    assert not faults, "\n".join(faults)
