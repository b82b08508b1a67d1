# SPDX-License-Identifier: Apache-2.0
"""Which keys of the configuration code reads: our sources, and what transformers' trainer runs for us.

A read is an attribute of something that is known to be the key's own section: ``args.data.cutoff_len``,
``data.cutoff_len`` after ``data = args.data``, ``args.cutoff_len`` where ``args: DataArguments``, and ``getattr`` with
the name. Declarations, help texts and rules (which only look whether a value is allowed) are no reads.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from transformers import Seq2SeqTrainingArguments, trainer_callback, trainer_optimizer
from transformers.integrations import integration_utils

from llamafactory.hparams.args import SHARED_SECTIONS, TRAINING_SECTIONS
from llamafactory.train.trainer import Trainer

SOURCE = Path(__file__).parents[2] / "src" / "llamafactory"
SECTIONS = {**SHARED_SECTIONS, **TRAINING_SECTIONS}

# What an annotation says that a name holds; transformers' arguments are made of our training section.
CLASSES = {section.__name__: name for name, section in SECTIONS.items()} | {"Seq2SeqTrainingArguments": "training"}
WHOLE = ("args", "run_args", "train_args", "infer_args")  # names of what all sections are taken from

# Expressions whose section no annotation in the same file tells.
HOLDERS = {
    "encoder.args": "data",  # data/prepare/encoding.py: Encoder.args
    "resolve_stage(processor, args)": "data",
    "resolve_thinking(resolve_stage(processor, train_args))": "data",
    "self.args": "training",  # of a trainer
    "trainer.args": "training",
}

Names = dict[str, set[str]]  # name (".name": an attribute) -> the sections it may hold
Reads = set[tuple[str, str]]  # (section, key); keys of tuners under the section "tuner"


# Our sources ---------------------------------------------------------------------------------------------------------


@cache
def our_reads(root: Path = SOURCE) -> Reads:
    """Return the keys that our code reads; of hparams only what derives values counts."""
    found: Reads = set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name == "hparams/derive.py" or not name.startswith("hparams/"):
            found |= reads_of(ast.parse(path.read_text("utf-8")), tuner="model/tuners/" in name)
    return found


def reads_of(tree: ast.Module, tuner: bool = False) -> Reads:
    """Return the keys that the functions of one file read, each with the names it can see."""
    attributes = _attributes_of_classes(tree, tuner)
    found: Reads = set()
    for function in _of_type(tree, ast.FunctionDef, ast.AsyncFunctionDef):
        names = _names_in(function, attributes, tuner)
        for node in ast.walk(function):
            if isinstance(node, ast.Attribute):
                found |= {(section, node.attr) for section in _sections_of(node.value, names)}
            elif isinstance(node, ast.Call):
                found |= _reads_of_call(node, function, names)
    return found


def _reads_of_call(call: ast.Call, function: ast.AST, names: Names) -> Reads:
    """``getattr(section, key)``, where a variable may be any word of its function; and ``args.keys.get(key)``."""
    called = ast.unparse(call.func)
    if called.endswith("args.keys.get"):
        return {(section, word) for section in SECTIONS for word in _words(call.args[0])}
    if called != "getattr":
        return set()
    words = _words(call.args[1] if isinstance(call.args[1], ast.Constant) else function)
    return {(section, word) for section in _sections_of(call.args[0], names) for word in words}


def _sections_of(node: ast.AST, names: Names) -> set[str]:
    """Return the sections that an expression may be."""
    if isinstance(node, ast.Name):
        return names.get(node.id, set())
    if isinstance(node, ast.Attribute):
        if node.attr in (*SECTIONS, "tuner") and _last_name(node.value) in WHOLE:
            return {node.attr}
        if f".{node.attr}" in names:
            return names[f".{node.attr}"]
    return {HOLDERS[ast.unparse(node)]} if ast.unparse(node) in HOLDERS else set()


def _attributes_of_classes(tree: ast.Module, tuner: bool) -> Names:
    """Return what ``self.name = ...`` and ``name: Section`` in classes say of attributes."""
    found: Names = defaultdict(set)
    for node in _of_type(tree, ast.AnnAssign):
        found[f".{_last_name(node.target)}"] |= _annotated(node.annotation, tuner)
    for function in _of_type(tree, ast.FunctionDef):
        names = _names_in(function, {}, tuner)
        for target, value in _assignments(function):
            if isinstance(target, ast.Attribute):
                found[f".{target.attr}"] |= _sections_of(value, names)
    return {name: sections for name, sections in found.items() if sections}


def _names_in(function: ast.AST, attributes: Names, tuner: bool) -> Names:
    """Return what the parameters and variables of a function (and of those inside it) hold."""
    names: Names = defaultdict(set, {**attributes, "tuner": {"tuner"}})
    for argument in _of_type(function, ast.arg):
        if argument.annotation is not None:
            names[argument.arg] |= _annotated(argument.annotation, tuner)
    for target, value in _assignments(function):
        if isinstance(target, ast.Name):
            names[target.id] |= _sections_of(value, names)
    return names


def _annotated(annotation: ast.AST, tuner: bool) -> set[str]:
    words = {_last_name(node) for node in _of_type(annotation, ast.Name, ast.Attribute)}
    found = {CLASSES[word] for word in words if word in CLASSES}
    return found | ({"tuner"} if tuner and "Arguments" in words else set())


def _assignments(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
    for node in _of_type(tree, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(target.elts, node.value.elts, strict=True)
            else:
                yield target, node.value


def _last_name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _words(tree: ast.AST) -> set[str]:
    return {node.value for node in _of_type(tree, ast.Constant) if isinstance(node.value, str)}


def _of_type(tree: ast.AST, *types: type) -> list[Any]:
    return [node for node in ast.walk(tree) if isinstance(node, types)]


# Transformers --------------------------------------------------------------------------------------------------------


@cache
def transformers_reads() -> set[str]:
    """Return the fields of its arguments that transformers reads in a run of our trainer.

    That is in the methods of its ``Trainer`` that ours reaches (so not those that ours replaces, nor what only those
    call), in its optimizers, callbacks and trackers, and in properties of the arguments that these ask for.
    """
    trees = [tree for owner, tree in _methods_that_run() if owner.__module__.startswith("transformers")]
    trees += [_parse(module) for module in (trainer_optimizer, trainer_callback, integration_utils)]
    found = {name for tree in trees for name in _attributes(tree, "args", "self.args", "ctx.args")}
    waiting = sorted(found)
    while waiting:
        member = _function_of(vars_of(Seq2SeqTrainingArguments).get(waiting.pop()))
        if member is not None:
            new = _attributes(_parse(member), "self") - found
            found |= new
            waiting += sorted(new)
    return found


def _methods_that_run() -> Iterator[tuple[type, ast.AST]]:
    """Follow ``self.name`` and ``super().name`` from what our code calls of a trainer, ours before transformers'."""
    seen: set[str] = {"_validate_args"}  # it only looks whether values go together
    waiting = ["__init__", "train"]
    for path in (SOURCE / "train").rglob("*.py"):
        waiting += sorted(_attributes(ast.parse(path.read_text("utf-8")), "trainer"))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for owner in Trainer.__mro__:
            member = _function_of(vars(owner).get(name))
            if member is not None:
                tree = _parse(member)
                yield owner, tree
                waiting += sorted(_attributes(tree, "self", "super()"))
                if f"super().{name}(" not in ast.unparse(tree):
                    break


def vars_of(owner: type) -> dict[str, Any]:
    """Return the members of a class and of its bases."""
    return {name: member for base in reversed(owner.__mro__) for name, member in vars(base).items()}


def _function_of(member: Any) -> Callable[..., Any] | None:
    """Return the function of a method or property."""
    for wrapper in ("fget", "func", "__func__"):
        member = getattr(member, wrapper, member)
    return inspect.unwrap(member) if inspect.isfunction(member) else None


def _parse(source: Any) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(source)))


def _attributes(tree: ast.AST, *holders: str) -> set[str]:
    return {node.attr for node in _of_type(tree, ast.Attribute) if ast.unparse(node.value) in holders}


def decided_here() -> set[str]:
    """Return the fields that ``train/training_arguments.py`` sets by itself: users' values are not passed on."""
    tree = ast.parse((SOURCE / "train" / "training_arguments.py").read_text("utf-8"))
    [function] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "_decided_here"]
    [result] = [node for node in function.body if isinstance(node, ast.Return)]
    assert isinstance(result.value, ast.Dict)
    return {word for key in result.value.keys if key is not None for word in _words(key)}
