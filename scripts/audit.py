# SPDX-License-Identifier: Apache-2.0
"""Look for known holes in the packages of constraints.txt: pip-audit, asking the advisory service of OSV.

Exit code 0: none is known. 1: at least one is. 2: the service gives no answer, so nothing is known either way.

    python scripts/audit.py [--if-reachable]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
OSV = "https://api.osv.dev/v1/query"


def why_unreachable(url: str) -> str | None:
    """Ask about one package; ``None`` when the service answers."""
    question = {"package": {"name": "pip", "ecosystem": "PyPI"}, "version": "26.0"}
    request = urllib.request.Request(url, json.dumps(question).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            json.load(response)
    except (OSError, ValueError) as error:  # no name, no connection, an HTTP error; no JSON
        return str(error)
    return None


def main() -> int:
    """Audit, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requirement", type=Path, default=REPOSITORY / "constraints.txt", help="pinned packages")
    parser.add_argument("--osv-url", default=OSV, help="where to ask")
    parser.add_argument("--if-reachable", action="store_true", help="exit with 0 when the service gives no answer")
    args = parser.parse_args()
    reason = why_unreachable(args.osv_url)
    if reason is not None:
        print(f"NOT AUDITED: {args.osv_url} gives no answer ({reason})", file=sys.stderr)
        return 0 if args.if_reachable else 2
    words = ["--vulnerability-service", "osv", "--osv-url", args.osv_url, "--strict", "--no-deps", "--disable-pip"]
    words += ["--requirement", str(args.requirement), "--progress-spinner", "off"]
    return subprocess.run([sys.executable, "-m", "pip_audit", *words], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
