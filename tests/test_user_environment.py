# SPDX-License-Identifier: Apache-2.0
"""What `make quickstart` installs is enough: no module needs a package that only developers have."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

EXTRAS = ("torch", "metrics", "gguf")  # of .venv/.user in the Makefile
SOURCES = Path(__file__).parents[1] / "src"
EVERY_MODULE = """
import importlib, pkgutil, sys
import llamafactory
failed = []
for found in pkgutil.walk_packages(llamafactory.__path__, "llamafactory."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ImportError as error:
            failed.append(f"{found.name}: {error}")
sys.exit("\\n".join(failed) or 0)
"""


def required(name: str, extras: tuple[str, ...] = ()) -> dict[str, Distribution]:
    """A distribution and all that pip installs with it."""
    found: dict[str, Distribution] = {}
    left = [(name, extras)]
    seen = set()
    while left:
        name, extras = left.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another system
            continue
        for line in found[name].requires or []:
            one = Requirement(line)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                left.append((one.name.lower(), tuple(sorted(one.extras))))
    return found


def test_every_module_is_imported_without_the_developers_packages(tmp_path):
    """A folder with links to what is installed for users, in the place of this environment's packages."""
    for one in required("llamafactory", EXTRAS).values():
        for file in one.files or []:
            top = file.parts[0]
            source = Path(str(one.locate_file(top)))
            if top not in ("..", "__pycache__") and not top.startswith("__editable__") and source.exists():
                (tmp_path / top).exists() or (tmp_path / top).symlink_to(source)
    assert (tmp_path / "torch").exists() and not (tmp_path / "pytest").exists()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCES), str(tmp_path)])}
    run = [sys.executable, "-S", "-P", "-c", EVERY_MODULE]
    done = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
