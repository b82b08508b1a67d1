# SPDX-License-Identifier: Apache-2.0
"""Which command runs what, and in how many processes.

A command runs in this process; training on several accelerators runs under torchrun, which starts this file as a module
in each worker. A worker that fails leaves its traceback in a folder, and the parent prints the first one last, so that
the real error stands at the end of the output.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings

TYPE_CHECKING = False  # as typing has it, which `version` need not import
if TYPE_CHECKING:
    from .extras.line import Line, Place

# Typing names and dataclasses are left out here on purpose: `version` and `help` pass through this file.
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("llamafactory.train.tuner:run_exp", "fine-tune a model, evaluate it, or write predictions"),
    "chat": ("llamafactory.chat.terminal:run_chat", "talk to a model in the terminal"),
    "infer": ("llamafactory.chat.batch_inference:run_infer", "answer every row of a data set into a file"),
    "export": ("llamafactory.train.tuner:export_model", "merge adapters and write the model"),
    "preprocess": (
        "llamafactory.train.commands.preprocess:run_preprocess",
        "tokenize the data of a run before the run",
    ),
    "preview": ("llamafactory.train.commands.preview:run_preview", "show the data as the model will see it"),
    "check-data": (
        "llamafactory.train.commands.check_data:run_check_data",
        "look at every row: broken, repeated, too long",
    ),
    "plan": ("llamafactory.train.commands.plan:run_plan", "say what memory a run needs and whether it fits"),
    "doctor": ("llamafactory.train.doctor.doctor:run_doctor", "look at machines and network before a run"),
    "api": ("llamafactory.api.app:run_api", "serve a model over an OpenAI-compatible interface"),
    "mine": ("llamafactory.train.commands.mine:run_mine", "find hard negatives with an embedding model"),
    "eval": ("llamafactory.eval.evaluator:run_eval", "run benchmarks"),
    "webchat": ("llamafactory.webui.interface:run_web_demo", "talk to a model in the browser"),
    "webui": ("llamafactory.webui.interface:run_web_ui", "train, evaluate, export and talk in the browser"),
    "convert-config": (
        "llamafactory.hparams.convert_config:run_convert_config",
        "say a configuration of axolotl, ms-swift or the v1 engine in the keys of this program",
    ),
    "schema": ("llamafactory.hparams.json_schema:print_schema", "print the JSON schema of a configuration"),
    "jobs": ("llamafactory.jobs.commands:run_jobs", "queue runs that outlive the terminal: list, submit, log, cancel"),
    "env": ("llamafactory.extras.env:print_env", "print versions and hardware (--torch: ask torch too)"),
    "version": ("llamafactory.launcher:print_version", "print the version"),
    "help": ("llamafactory.launcher:print_help", "print this list"),
}
# Commands without a configuration file, and what they take instead.
PLAIN = {"webui": "[--share]", "env": "[--torch]", "schema": "", "version": "", "help": ""}
# Other names of commands -> the command, and what is put behind its words.
OTHER_NAMES = {"merge": ("export", []), "sft": ("train", ["--stage=sft"]), "dpo": ("train", ["--stage=dpo"]),
               "rm": ("train", ["--stage=rm"])}  # fmt: skip
# Their advice does not fit what we do with them; LLAMAFACTORY_VERBOSITY=DEBUG lets them speak.
_QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "ACCELERATE_LOG_LEVEL": "error",
    "TQDM_DELAY": "2",  # seconds before a bar is drawn
}
NODES_TIMEOUT = ("NODES_TIMEOUT", 600)  # variable, seconds: how long machines wait for each other
SHAPES_KEPT = 64  # more than a step of a dense model has


def launch() -> int:
    """Run the command that ``sys.argv`` names.

    Returns:
        The exit code of the process.

    Raises:
        UsageError: No such command.
        ConfigError: The configuration is wrong.
    """
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print_help()
        return 0
    command = {"--version": "version", "-v": "version"}.get(sys.argv[1], sys.argv[1])
    if command in OTHER_NAMES:
        command, more = OTHER_NAMES[command]
        sys.argv[1:] = [command, *sys.argv[2:], *more]
    if command not in COMMANDS:
        _refuse(f"unknown command {command!r}; commands: {', '.join(COMMANDS)}")
    if any(word in ("-h", "--help") for word in sys.argv[2:]):
        return _print_command_help(command)
    prepare_environment()  # looking for accelerators imports torch
    if _wants_torchrun(command):
        return run_torchrun(sys.argv[1:])
    handler(command)()
    return 0


def handler(command: str):  # type: ignore[no-untyped-def]
    """Import and return the function of one command; called without arguments it reads ``sys.argv`` itself."""
    module, _, name = COMMANDS[command][0].partition(":")
    return getattr(importlib.import_module(module), name)


def prepare_environment() -> None:
    """Set, before any of them is imported, what torch and other libraries read from the environment."""
    # A thread of torch's OpenMP (libgomp) that waits spins for some 20 microseconds, which saves most of the waking up,
    # and then leaves its core to others. Without a bound it would spin for milliseconds.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Tensors of 2 MB and more in large pages where the system allows it: a page that is taken anew costs time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Two caches, oneDNN's and that of the wrapper around it, keep the machine code of each shape of a product, 1,024
    # each by default: rows of all lengths fill them with hundreds of MB, and the next step has other shapes anyhow.
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(SHAPES_KEPT))
    if os.environ.get("LLAMAFACTORY_VERBOSITY", "INFO").upper() not in ("DEBUG", "NOTSET"):
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        if not sys.warnoptions:
            warnings.simplefilter("ignore")


def print_version() -> None:
    """Print the version."""
    from . import __version__

    print(f"llamafactory {__version__}")


def print_help() -> None:
    """Print what commands there are."""
    print("llamafactory-cli COMMAND [FILE.yaml] [key=value ...]\n\ncommands:")
    for name, (_, summary) in COMMANDS.items():
        print(f"  {name:<10} {summary}")
    print("\n`llamafactory-cli COMMAND -h` lists the keys that a command reads.")


def _refuse(message: str) -> None:
    from .extras.errors import UsageError

    raise UsageError(message)


def _print_command_help(command: str) -> int:
    if command in PLAIN:
        print(f"llamafactory-cli {command} {PLAIN[command]}".rstrip() + f": {COMMANDS[command][1]}")
        return 0
    from .extras.printing import print_text

    print_text(_help_of(command))
    return 0


def _help_of(command: str) -> str:
    if command == "jobs":
        from .jobs.commands import HELP

        return HELP
    if command == "convert-config":
        from .hparams.convert_config import HELP as OF_CONVERSION

        return OF_CONVERSION
    from .hparams.help_text import help_text

    return help_text(command)


def _wants_torchrun(command: str) -> bool:
    """Whether a command needs several processes.

    Its configuration is read here, before torch is imported or a worker started, so that a mistake shows at once.
    """
    if command in (*PLAIN, "jobs", "convert-config") or "LOCAL_RANK" in os.environ:  # LOCAL_RANK: already a worker
        return False
    from .extras.environment import is_env_enabled
    from .hparams import get_infer_args, get_train_args

    if command in ("api", "chat", "infer", "eval", "export", "webchat"):
        get_infer_args()
        return False
    if command == "preview":
        from .hparams.parser import get_data_args

        if get_data_args().messages is not None:  # it writes a conversation out, and needs no model
            return False
    args = get_train_args()
    if command != "train" or args.ray.use_ray:
        return False
    several_nodes = os.environ.get("NNODES", "1") not in ("", "1") or bool(os.environ.get("RDZV_ID"))
    if several_nodes or is_env_enabled("FORCE_TORCHRUN"):
        return True
    if args.training.use_cpu:
        return False
    from .extras.device import count_accelerators

    return count_accelerators() > 1


def run_torchrun(words: list[str]) -> int:
    """Start torchrun for ``words`` (the command and its arguments), wait for it, and report the first failure.

    Several machines meet first, compare what they are to do, and stop together when one of them fails; those of an
    elastic job come and go, and do not.

    Returns:
        torchrun's exit code, or the failing worker's when it was a configuration error.
    """
    from .extras import launching

    if os.environ.get("RDZV_ID"):
        return _run_workers(launching.torchrun_argv(words, os.environ), None)
    place = launching.read_place(os.environ)
    argv = launching.torchrun_argv(words, os.environ, place)
    if place.nodes == 1:
        launching.require_free_port(place)
        return _run_workers(argv, None)
    with _meet(place) as line:
        return _run_workers(argv, line)


def _meet(place: Place) -> Line:
    """Wait for the other machines and compare what all are to do.

    Raises:
        ConfigError: They do not come together, or do not agree; the same line on each.
    """
    from .extras.environment import Environment
    from .extras.errors import ConfigError
    from .extras.meeting import meet
    from .hparams import get_train_args
    from .hparams.roll_call import call_roll
    from .train.doctor.machine import stoppers

    args = get_train_args()
    line = meet(place, Environment(os.environ).number(*NODES_TIMEOUT, 1, 86_400))
    faults = call_roll(args, line, stoppers(args))
    if faults:
        more = f" (and {len(faults) - 1} more; see llamafactory-cli doctor)" if len(faults) > 1 else ""
        raise ConfigError(f"{faults[0]}{more}")
    line.offsets(10.0)
    return line


def _run_workers(argv: list[str], line: Line | None) -> int:
    import subprocess
    import tempfile

    from .extras import launching, parents

    with tempfile.TemporaryDirectory(prefix="llamafactory-errors-") as folder:
        environment = {**os.environ, **launching.worker_environment(os.environ), launching.ERROR_DIR: folder}
        if line is not None:
            environment |= launching.ways_to_others(os.environ, line.own_address())
        # A session of its own: a Ctrl-C in the terminal reaches the workers once, through the parent.
        child = subprocess.Popen(
            argv, env=environment, start_new_session=True, preexec_fn=parents.ask_to_end_with_parent
        )
        if line is not None:
            line.watch(lambda: launching.stop(child))
        received = launching.wait_passing_signals(child)
        code = 128 - child.returncode if child.returncode < 0 else child.returncode
        return launching.report_end(folder, code, received, line)


def worker() -> None:
    """Entry of one process under torchrun: run the command and leave the reason of a failure in the error folder."""
    from .extras.launching import ERROR_DIR, record_failures

    prepare_environment()
    record_failures(os.environ[ERROR_DIR])
    handler(sys.argv[1])()


if __name__ == "__main__":
    worker()
