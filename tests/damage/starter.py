# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything and forks itself for each command, so that moments fall into the work.

One line of JSON in (words, folder, log), one line out with the process id, and one with how it ended.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

HEAVY = (
    "torch", "transformers", "peft", "datasets", "llamafactory.train.workflow", "llamafactory.chat.batch_inference",
    "llamafactory.export.export", "llamafactory.train.commands.preprocess", "llamafactory.train.sft.workflow",
    "llamafactory.train.grpo.workflow", "llamafactory.chat.hf_engine",
)  # fmt: skip


def command(words: list[str], folder: str, log: str) -> int:
    """Be the console script, in a session of its own: whoever stays behind is known by it."""
    import datasets.config

    from llamafactory import cli

    os.setsid()
    os.chdir(folder)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["llamafactory-cli", *words]
    datasets.config.HF_DATASETS_CACHE = os.path.join(folder, "own-cache")
    return cli.main()


def serve() -> None:
    """Start commands until the input ends."""
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            try:
                code = command(**json.loads(line))
            except SystemExit as left:
                code = left.code if isinstance(left.code, int) else 1
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            os._exit(code)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
