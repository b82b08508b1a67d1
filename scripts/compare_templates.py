# SPDX-License-Identifier: Apache-2.0
"""Compare our chat templates with a folder of official ones: ``python scripts/compare_templates.py FOLDER``.

The folder holds ``*.jinja`` files and, if it likes, ``render_cases.json`` (name to ``messages``, ``tools``,
``add_generation_prompt``, ``enable_thinking``) with further conversations. What is compared with what, and where ours
differ on purpose, is the list in ``tests/data/templates/official_texts.py``: a file with the same text as one listed
there is compared like it, other files by their rows ``folder:NAME``. Ends with 1 if a difference has no reason listed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import jinja2

sys.path.insert(0, str(Path(__file__).parents[1]))

from llamafactory.extras.errors import ConfigError
from tests.data.templates.cases import Case
from tests.data.templates.comparison import Comparison, load_official, runs
from tests.data.templates.official_texts import NO_FAMILY, OFFICIAL, Official

RESULTS = ["OPEN", "differs on purpose", "equal but for tools", "equal"]  # the worst first


def read_cases(folder: Path) -> list[tuple[Case, bool]]:
    """The folder's own conversations, and whether each is a prompt."""
    path = folder / "render_cases.json"
    found = []
    for name, case in json.loads(path.read_text(encoding="utf-8")).items() if path.exists() else ():
        messages, tools = tuple(case["messages"]), tuple(case.get("tools", ()))
        tags = {"system" if messages[0]["role"] == "system" else "no_system", *(["tools"] if tools else [])}
        tags |= {"calls"} if any("tool_calls" in message for message in messages) else set()
        tags |= {"inline"} if any("</think>" in one["content"] for one in messages) else set()
        thought = any("reasoning_content" in one or "</think>" in one["content"] for one in messages)
        tags |= {"thought"} if thought else set()
        tags |= {"multi_turn"} if sum(one["role"] == "user" for one in messages) > 1 else set()
        tags |= {"thinking_off"} if case.get("enable_thinking") is False else set()
        one = Case(name, messages, frozenset(tags), tools, case.get("enable_thinking"))
        found.append((one, case["add_generation_prompt"]))
    return found


def entries(folder: Path) -> dict[str, list[Official]]:
    """Per file: what it is compared with."""
    by_text: dict[str, list[Official]] = {}
    for one in OFFICIAL:
        if not one.source.startswith("folder:"):
            by_text.setdefault(load_official(one.source).strip(), []).append(one)
    found = {}
    for path in sorted(folder.glob("*.jinja")):
        listed = [one for one in OFFICIAL if one.source == f"folder:{path.stem}"]
        found[path.stem] = listed or by_text.get(path.read_text(encoding="utf-8").strip(), [])
    return found


def compare(official: Official, folder: Path, verbose: bool) -> tuple[int, int, list[str]]:
    """How many runs are equal, how many differ for a listed reason, and those that differ without one."""
    comparison = Comparison(official, folder)
    mine = [(case, prompt, different) for case, prompt, different in runs(official)]
    for case, is_prompt in read_cases(folder):
        # A conversation that ends in a user turn is a prompt by itself; `runs` cuts the last turn off for prompts.
        whole = Case(case.name, (*case.messages, {"role": "assistant", "content": ""}), *list(vars(case).values())[2:])
        chosen = [run for run in runs(official, [whole if is_prompt else case]) if run[1] == is_prompt]
        mine += chosen
    equal, excused, open_ones = 0, 0, []
    for case, prompt, different in mine:
        if different:
            excused += 1
            continue
        try:
            texts = comparison.differs(case, prompt)
        except (jinja2.TemplateError, ConfigError, TypeError, ValueError) as error:
            texts = ("", f"{type(error).__name__}: {error}")
        if texts is None:
            equal += 1
        else:
            open_ones.append(f"{case.name}{' (prompt)' if prompt else ''} {sorted(case.tags)}")
            if verbose:
                print(f"  {open_ones[-1]}\n    ours     {texts[0]!r}\n    official {texts[1]!r}")
    return equal, excused, open_ones


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="", help="names of files, comma separated")
    parser.add_argument("--verbose", action="store_true", help="show both texts of what differs without a reason")
    args = parser.parse_args()
    only = set(args.only.split(",")) - {""}
    tally: Counter[str] = Counter()
    for name, listed in entries(args.folder).items():
        if only and name not in only:
            continue
        if not listed:
            tally["no template of ours" if name in NO_FAMILY else "NOT LISTED"] += 1
            print(f"{name}: {'no template of ours' if name in NO_FAMILY else 'NOT LISTED'}")
        results = set()
        for official in {one.template: one for one in listed}.values():
            if official.other:
                results.add("differs on purpose")
                print(f"{name} = {official.template}: not compared: {official.other}")
                continue
            equal, excused, open_ones = compare(official, args.folder, args.verbose)
            same = (
                "equal" if not excused else "equal but for tools" if set(official.differs) <= {"tools", "calls"} else ""
            )
            result = "OPEN" if open_ones else same or "differs on purpose"
            results.add(result)
            print(f"{name} = {official.template}: {result}: {equal} equal, {excused} listed, {len(open_ones)} open")
            for line in open_ones if not args.verbose else ():
                print(f"    {line}")
        if results:
            tally[min(results, key=RESULTS.index)] += 1
    print(", ".join(f"{count} {result}" for result, count in sorted(tally.items())), f"of {sum(tally.values())} files")
    return int(bool(tally["OPEN"] or tally["NOT LISTED"]))


if __name__ == "__main__":
    sys.exit(main())
