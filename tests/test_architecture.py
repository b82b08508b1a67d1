# SPDX-License-Identifier: Apache-2.0
"""The house keeps its shape: who may import whom, how long a file is, what no file does; every table row exists."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

from llamafactory import launcher, plugins

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "llamafactory"
FILES = sorted(SOURCE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

# A room imports from rooms of lower levels only; rooms of one level do not know each other.
LEVELS = {
    "": 0,  # llamafactory/__init__.py: the version
    "extras": 1,
    "third_party": 1,  # names that scripts for LLaMA-Factory import; so is v1
    "plugins": 2,
    "hparams": 3,
    "data": 4,
    "model": 4,
    "jobs": 4,
    "export": 5,
    "chat": 6,
    "train": 7,  # its tuner.py is the door to export_model; rollouts run on chat's batching
    "eval": 7,
    "api": 8,
    "webui": 8,
    "launcher": 9,
    "v1": 10,
    "cli": 10,
    "__main__": 11,
}
MAX_LINES = 400
DATA_ONLY = ("data/templates/",)  # literal values without logic
MAX_MODULES = 12
ROWS_OF_A_TABLE = (
    "data/templates",
    "data/tool_formats",
    "train/optim",
)  # files that `plugins.py` names are not counted in these


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def room_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imports(path: Path, nodes) -> list[tuple[int, str]]:
    """Return line and absolute module of every import among ``nodes``."""
    package = ["llamafactory", *path.relative_to(SOURCE).parent.parts]
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from .. import plugins` names a room; `from ..plugins import resolve` names it already.
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def module_level(tree: ast.Module):
    """Yield the nodes that run when a module is imported: not those inside functions or ``if TYPE_CHECKING``."""
    stack: list[ast.AST] = list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
            continue
        yield node
        stack += ast.iter_child_nodes(node)


def test_every_file_belongs_to_a_room():
    assert {room_of(path) for path in FILES} <= set(LEVELS)


def for_each(paths):
    """Ask one test of many files, and name each that fails: thousands of tests are slow to collect."""

    def of_all(test):
        def test_of_all():
            failed = []
            for path in paths:
                try:
                    test(path)
                except AssertionError as error:
                    failed.append(f"{path.relative_to(ROOT)}: {error}")
            assert not failed, "\n".join(failed)

        test_of_all.__name__, test_of_all.__doc__ = test.__name__, test.__doc__
        return test_of_all

    return of_all


@for_each(FILES)
def test_imports_run_one_way(path):
    room = room_of(path)
    for line, module in imports(path, ast.walk(tree_of(path))):
        parts = module.split(".")
        if parts[0] != "llamafactory" or len(parts) < 2:
            continue
        other = parts[1] if parts[1] in LEVELS else ""
        allowed = other == room or LEVELS[other] < LEVELS[room]
        assert allowed, f"{name_of(path)}:{line}: {room} may not import {module}"


def module_of(path: Path) -> str:
    parts = ("llamafactory", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_modules(path: Path) -> set[str]:
    """Return the modules of ours that a file imports: inside functions and ``if TYPE_CHECKING`` too."""
    found = set()
    for _, name in imports(path, ast.walk(tree_of(path))):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module_of(path)}


def circle_of(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, first and last the same; empty if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_imports_run_in_no_circle():
    assert circle_of({module: imported_modules(path) for module, path in MODULES.items()}) == []


def test_a_circle_is_found_wherever_the_import_stands(tmp_path):
    assert circle_of({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) in (
        ["a", "b", "c", "a"], ["b", "c", "a", "b"], ["c", "a", "b", "c"]
    )  # fmt: skip
    assert circle_of({"a": {"b", "c"}, "b": {"c"}}) == []
    file = SOURCE / "data" / "loader.py"
    hidden = ast.parse(
        "if TYPE_CHECKING:\n    from ..hparams import TrainArgs\ndef f():\n    from .template import thinking"
    )
    names = [name for _, name in imports(file, ast.walk(hidden))]
    assert names == ["llamafactory.hparams.TrainArgs", "llamafactory.data.template.thinking"]


FOLDERS = sorted({path.parent for path in FILES if room_of(path) in ("data", "train")})


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_folders_of_data_and_train_can_be_taken_in_at_a_glance(folder):
    modules = {module_of(path) for path in folder.glob("*.py") if path.name != "__init__.py"}
    if name_of(folder) in ROWS_OF_A_TABLE:
        modules -= {target.partition(":")[0] for table in plugins.TABLES.values() for target in table.values()}
    assert len(modules) <= MAX_MODULES, sorted(modules)


@for_each([*FILES, *TESTS])
def test_files_are_short_and_licensed(path):
    text = path.read_text("utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    if path.is_relative_to(SOURCE) and not name_of(path).startswith(DATA_ONLY):
        assert text.count("\n") <= MAX_LINES, f"{text.count(chr(10))} lines"
    assert path.name not in ("utils.py", "misc.py", "helpers.py")


LIGHT = sorted(
    {path for path in FILES if room_of(path) in ("", "plugins", "hparams", "launcher", "cli", "__main__", "extras")}
    | {SOURCE / f"{target.partition(':')[0].removeprefix('llamafactory.').replace('.', '/')}.py"
       for table in (plugins.TUNERS, plugins.TEMPLATES, plugins.FORMATS) for target in table.values()}
)  # fmt: skip


@for_each(LIGHT)
def test_light_modules_import_no_torch_at_module_level(path):
    heavy = [
        f"{name_of(path)}:{line}: {module}"
        for line, module in imports(path, module_level(tree_of(path)))
        if module.split(".")[0] in ("torch", "transformers", "datasets", "peft", "accelerate")
    ]
    assert heavy == []


def test_plugin_files_load_without_torch():
    """Not only the files themselves: nothing they import at module level brings torch along."""
    rows = [target for table in (plugins.TUNERS, plugins.TEMPLATES, plugins.FORMATS) for target in table.values()]
    code = (
        "import importlib, json, sys\n"
        "for target in json.loads(sys.argv[1]): importlib.import_module(target.partition(':')[0])\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(rows)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stdout + done.stderr


ROWS = [(kind, name) for kind, table in plugins.TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), ROWS)
def test_every_plugin_row_resolves(kind, name):
    assert plugins.resolve(kind, name) is not None


@pytest.mark.parametrize("name", plugins.STAGES)
def test_a_stage_is_prepared_as_it_is_trained(name):
    """`preview` and `preprocess` name the processors apart, so as not to import trainers; both tables say the same."""
    from llamafactory.train.commands.preprocess import stage_processor

    assert type(stage_processor(name)) is type(plugins.resolve("stages", name).processor)


@pytest.mark.parametrize("name", plugins.TUNERS)
def test_tuners_export_what_the_parser_needs(name):
    tuner = plugins.resolve("tuners", name)
    assert callable(tuner.create) and tuner.Arguments.__dataclass_params__.frozen


@pytest.mark.parametrize("command", launcher.COMMANDS)
def test_every_command_resolves(command):
    assert callable(launcher.handler(command))


def test_unknown_plugin_names_the_nearest():
    from llamafactory.extras.errors import ConfigError

    with pytest.raises(ConfigError, match=r"finetuning_type: unknown name 'lorra'; did you mean lora or"):
        plugins.resolve("tuners", "lorra")


def test_third_party_rows_come_from_entry_points(tmp_path, monkeypatch):
    folder = tmp_path / "mine-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[llamafactory.plugins]\nlosses.mine = my_loss:loss\n")
    (tmp_path / "my_loss.py").write_text("loss = 'found'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_entry_points", None)
    assert plugins.resolve("losses", "mine") == "found"
    assert "mine" in plugins.names("losses")


# Files of other programs; tests/hparams/test_sharding.py and tests/test_clusters.py read them.
LAUNCHERS = (ROOT / "examples" / "accelerate", ROOT / "examples" / "clusters")
OF_A_KEY = ("extras/multi_tokens/tokens_cfg.yaml", "v1/sft_demo.yaml")  # a key of another example names them
EXAMPLES = sorted(
    path
    for path in (ROOT / "examples").rglob("*.yaml")
    if path.parent not in LAUNCHERS and path.relative_to(ROOT / "examples").as_posix() not in OF_A_KEY
)


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_example_parses(path, monkeypatch):
    from llamafactory.hparams import get_infer_args, get_train_args

    monkeypatch.chdir(ROOT)
    keys = yaml.safe_load(path.read_text("utf-8"))
    # overwrite_output_dir: the example may have been run in this checkout.
    if {"dataset", "eval_dataset", "train_dataset"} & set(keys):
        get_train_args([str(path.relative_to(ROOT)), "overwrite_output_dir=true"])
    get_infer_args([str(path.relative_to(ROOT))])


# Unpickles nothing but the classes of a list that it holds; tests/scripts/test_conversions.py tries another.
OWN_UNPICKLER = "model/conversion/distributed_checkpoint.py"


@for_each(FILES)
def test_nothing_dangerous_or_careless(path):
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append((node.lineno, "bare except"))
        if isinstance(node, (ast.Import, ast.ImportFrom)) and name_of(path) != OWN_UNPICKLER:
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [
                (node.lineno, name) for name in names if name.split(".")[0] in ("pickle", "dill", "shelve", "marshal")
            ]
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
                found.append((node.lineno, called))
            if called in ("eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "yaml.full_load"):
                found.append((node.lineno, called))
            if keywords.get("shell", "False") != "False":
                found.append((node.lineno, "shell=True"))
            if called == "torch.load" and keywords.get("weights_only") != "True":
                found.append((node.lineno, "torch.load without weights_only=True"))
    assert found == [], name_of(path)


def test_every_test_that_the_page_on_security_names_is_there():
    named = set(re.findall(r"`(test_[a-z_0-9]+)`", (ROOT / "docs" / "security.md").read_text("utf-8")))
    text = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20 and {name for name in named if f"def {name}(" not in text} == set()


def test_git_holds_no_file_that_a_run_left():
    """A benchmark's killed run once brought a model of 77 MB into the history."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in files.split("\0") if name]
    large = [path.name for path in paths if path.is_file() and path.stat().st_size > 200_000]
    weights = [path.name for path in paths if path.suffix in {".safetensors", ".bin", ".pt", ".gguf"}]
    assert not large and not weights and len(paths) > 500
