# SPDX-License-Identifier: Apache-2.0
"""Every file that a command opens, broken in every way: it is made again, or one line names it and says what to do.

The table is read off the folders that tiny runs made, so that a file which some command writes tomorrow is in it too.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from safetensors.torch import load_file

from .damages import Damage, cut, damages_of, emptied, other_types, removed
from .world import COMMANDS, Outcome, World

# "command file damage" -> why the command ends well although the file is broken.
HARMLESS = {
    "* */README.md *": "nobody reads it",
    "* */Modelfile *": "Ollama reads it",
    "* */*.gguf *": "llama.cpp reads it",
    "* */run_manifest.json *": "written for people",
    "* */compatibility.json *": "written for people",
    "* */*_results.json *": "figures of a run: written anew",
    "resume run/*.json *": "written anew at the end",
    "resume run/*.jinja *": "written anew at the end",
    "resume run/*.safetensors *": "written anew at the end; what goes on is the checkpoint",
    "resume run/trainer_log.jsonl *": "lines that can be read are kept",
    "resume-checkpoint * *": "the checkpoint before it is taken",
    "* adapter/trainer_state.json *": "of the run that made it",
    "* adapter/trainer_log.jsonl *": "figures of the run that made it",
    "*-cache * *": "a cache is made again",
    "dpo cache/* *": "a cache is made again",
    "* */generation_config.json removed": "advice that may be absent",
    "* */generation_config.json all_null": "advice that is not given",
    "train* */generation_config.json other_types": "advice on sampling, and nothing is sampled",
    "chat */generation_config.json other_types": "sampling is the engine's",
    "infer* */generation_config.json other_types": "sampling is the engine's",
    "dpo-ref */generation_config.json other_types": "advice on sampling, and nothing is sampled",
    "grpo-* */generation_config.json other_types": "advice on sampling, and nothing is sampled with it",
    "* */chat_template.jinja removed": "template: names another one, or the default",
    "* */chat_template.jinja emptied": "as if it were not there",
    "* */chat_template.jinja cut": "template: names another one",
    "* */chat_template.jinja a_list": "a text without any slot is a template",
    "* adapter/tokenizer_config.json removed": "the tokenizer of the base is taken",
    "chat base/tokenizer* *": "the adapter brings its own",
    "export base/tokenizer* *": "the adapter brings its own",
    "* adapter/tokenizer.json removed": "its text is in no need of it",
    "infer-media media/tokenizer_config.json removed": "the class of the model type knows its tokens",
    "train-prepared prepared/llamafactory_files.json removed": "older versions wrote none: the structure is looked at",
    "* *.yaml cut": "half of a YAML file may be one",
    "* *.[ct]sv cut": "half of a table may be one",
    "* *.xlsx no_utf8": "an archive is read from its end",
    "* *.zip no_utf8": "an archive is read from its end",
    "preview-gpt2 gpt2/added_tokens.json removed": "not every tokenizer has one",
    "preview-gpt2 gpt2/special_tokens_map.json removed": "tokenizer_config.json says the same",
    "preview-pieces pieces/tokenizer_config.json removed": "the class of the model type knows its tokens",
    "infer-sound ears/tokenizer_config.json removed": "the class of the model type knows its tokens",
    "stream-resume * *": "the checkpoint before it is taken",
    "* *.jsonl cut": "half of the lines, at a line's end",
    "prepare-txt * *": "any text is text to train on",
    "train-template mine.jinja *": "any text is a template",
    "train-literals mine.yaml cut": "half of a YAML file may be one",
    "* answers.jsonl cut": "the last line is answered again",
    "* answers.jsonl removed": "it begins anew",
    "* answers.jsonl zeroed": "it begins anew",
    "* answers.jsonl emptied": "it begins anew",
    "* rewards.py *": "half of a Python file may be one",
    "* tools.py *": "half of a Python file may be one",
}
# "command file damage": the line need not name the file, for it names what is wrong without it.
UNNAMED = (
    "infer-media media/chat_template.jinja *", "infer-media media/preprocessor_config.json removed",
    "* */chat_template.jinja cut", "infer-again .answers.jsonl.settings.json *", "resume run/* unreadable",
    "eval* tasks/*/* removed", "eval* tasks/*/* a_folder", "infer-sound ears/processor_config.json removed",
    "preview-gpt2 gpt2/special_tokens_map.json all_null", "* adapter-pickle/adapter_model.bin removed",
)  # fmt: skip


def _fits(patterns: tuple[str, ...] | dict[str, str], case: str) -> bool:
    return any(fnmatchcase(case, pattern) for pattern in patterns)


def check(name: str, file: str, damage: str, outcome: Outcome, world: World) -> str | None:
    """Return what is wrong with the end of a command, None if it is right."""
    case = f"{name} {file} {damage}"
    if outcome.code == 0:
        return None if _fits(HARMLESS, case) else f"{case}: went on as if nothing were wrong"
    if outcome.code not in (1, 2) or "Traceback" in outcome.errors or not outcome.last.startswith("error: "):
        return f"{case}: {outcome.errors[-1500:]}"
    if Path(file).name not in outcome.last and not _fits(UNNAMED, case):
        return f"{case}: not named: {outcome.last}"
    return None


def share(world: World, name: str) -> list[str]:
    """Some of the files of which no command before this one takes care; else two of them."""
    files = world.files(COMMANDS[name])
    before = [world.files(COMMANDS[other]) for other in list(COMMANDS)[: list(COMMANDS).index(name)]]
    own = [file for file in files if not any(file in some for some in before)] or files[-2:]
    return own[:: 1 + len(own) // 8]


def walk(world: World, name: str, files: list[str], every: bool) -> list[str]:
    """Damage files of a command one after another; in ``every`` way, or in one that differs from file to file."""
    wrong = []
    command = COMMANDS[name]
    for number, file in enumerate(files):
        damages = damages_of(world.whole / file)
        for damage in damages if every else [damages[(number + sum(map(ord, name))) % len(damages)]]:
            damage(world.folder / file)
            wrong.append(check(name, file, damage.__name__, world.run(command), world))
            world.restore()
    return [line for line in wrong if line]


def test_every_file_of_a_model_and_a_run_is_in_the_table(world: World) -> None:
    """A pattern that matches nothing is a command that nobody looks at."""
    for name, command in COMMANDS.items():
        for pattern in command.opens:
            assert any(world.whole.glob(pattern)), f"{name}: {pattern}"


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.slow])
def test_each_file_in_one_way(world: World, name: str) -> None:
    assert walk(world, name, share(world, name), every=False) == []


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [("train-parts", "parts/model.safetensors.index.json", removed), ("preview-gpt2", "gpt2/merges.txt", cut),
     ("preview-gpt2", "gpt2/merges.txt", emptied), ("preview-gpt2", "gpt2/vocab.json", other_types),
     ("preview-pieces", "pieces/tokenizer.model", emptied), ("preview-pieces", "pieces/tokenizer.model", removed),
     ("infer-sound", "data/tone.wav", cut)],
)  # fmt: skip
def test_files_that_went_wrong(world: World, name: str, file: str, damage: Damage) -> None:
    """Half of a list of merges, a tokenizer without words and half of a sound were taken; parts were not found."""
    damage(world.folder / file)
    outcome = world.run(COMMANDS[name])
    assert outcome.code == 1 and Path(file).name in outcome.last, outcome.errors


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_each_file_in_every_way(world: World, name: str) -> None:
    whole = world.run(COMMANDS[name])
    assert whole.code == 0, whole.errors
    world.restore()
    assert walk(world, name, world.files(COMMANDS[name]), every=True) == []


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("train-cache", "out/.data/*/train/*.arrow"), ("stream-cache", "cache/llamafactory/rows-*/offsets.npy"),
     ("train-gguf-cache", "gguf/gguf/*/model.safetensors")],
)  # fmt: skip
def test_what_is_made_again_is_the_same(world: World, name: str, pattern: str) -> None:
    assert world.run(COMMANDS[name]).code == 0
    wanted = load_file(world.folder / "out" / "adapter_model.safetensors")
    world.restore()
    (path,) = world.folder.glob(pattern)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF  # neither size nor structure tells
    path.unlink()
    path.write_bytes(content)
    outcome = world.run(COMMANDS[name])
    assert outcome.code == 0, outcome.errors
    assert path.read_bytes() != content
    found = load_file(world.folder / "out" / "adapter_model.safetensors")
    assert all((found[key] == value).all() for key, value in wanted.items())
