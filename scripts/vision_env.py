# SPDX-License-Identifier: Apache-2.0
"""Put torchvision into a folder that goes in front of ours: ``scripts/vision_env.py FOLDER``.

Processors of videos need it, and of it only what is written in Python. Its compiled part belongs to another build of
torch than the one of the tests; two of its operators are declared instead, without which it does not import.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = "torchvision==0.28.0"
_IMPORT = "import torch\n"
_DECLARED = """
_declared = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Install, then declare."""
    folder = Path(sys.argv[1])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--upgrade", "--target", str(folder), PACKAGE], check=True)
    start = folder / "torchvision" / "__init__.py"
    text = start.read_text(encoding="utf-8")
    if _IMPORT not in text:
        sys.exit(f"{start} does not import torch any more: what is declared for {PACKAGE} must be looked at anew")
    start.write_text(text.replace(_IMPORT, _IMPORT + _DECLARED, 1), encoding="utf-8")


if __name__ == "__main__":
    main()
