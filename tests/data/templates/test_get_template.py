# SPDX-License-Identifier: Apache-2.0
"""From the keys of a config to a bound template."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data import get_template, render
from llamafactory.data.template.jinja_template import JinjaTemplate
from llamafactory.export.ollama import modelfile
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.data_args import DataArguments

from .binding import bind, ids_and_weights, sample
from .cases import A, U
from .trained_tokenizers import build_tokenizer


def test_by_name_with_its_overrides() -> None:
    args = DataArguments(template="qwen", default_system="Be kind.", tool_format="llama3")
    template = get_template(build_tokenizer("qwen"), args)
    assert template.name == "qwen"
    text = render(template, [U, A], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n") and text.endswith("<|im_start|>assistant\n")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert '{"name": "f", "parameters": {}}' in render(template, [U, call])


def test_an_unknown_name_or_file_is_one_line(tmp_path: Path) -> None:
    tokenizer = build_tokenizer("qwen")
    for value, message in [
        ("qwne", "^template: unknown name 'qwne'; did you mean qwen"),
        ("[qwen]", r"^template: unknown name '\[qwen\]'; did you mean qwen"),
        ("./no.jinja", "no.jinja does not exist"),
    ]:
        with pytest.raises(ConfigError, match=message):
            get_template(tokenizer, DataArguments(template=value))
    with pytest.raises(ConfigError, match="tool_format: unknown name 'nope'"):
        get_template(tokenizer, DataArguments(template="qwen", tool_format="nope"))
    path = tmp_path / "mine.jinja"
    path.write_text("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    with pytest.raises(ConfigError, match="default_system: 'x' needs a named template"):
        get_template(tokenizer, DataArguments(template=str(path), default_system="x"))
    assert get_template(tokenizer, DataArguments(template=str(path))).name == str(path)


def test_a_yaml_file_of_literals(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: qwen\ndefault_system: You are Ada.\nstop: ['<|im_end|>', 'USER:']\n")
    template = get_template(build_tokenizer("qwen"), DataArguments(template=str(path)))
    assert template.name == str(path) and template.render(sample([U]).messages).startswith(
        "<|im_start|>system\nYou are Ada."
    )
    path.write_text('user: "Q: {{content}}\\n"\ngeneration: "A:"\nassistant: " {{content}}{{eos}}"')
    template = get_template(build_tokenizer("qwen"), DataArguments(template=str(path), default_system="Hm."))
    assert template.render(sample([U, A]).messages) == f"Hm.Q: {U['content']}\nA: {A['content']}<|im_end|>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "expected keys and values, got list"),
        ("a: [", "not YAML"),
        ("usr: x", "unknown key 'usr'; did you mean user"),
        ("user: 3", "user must be text"),
        ("stop: x", "stop must be a list of texts"),
        ("thought: [x]", "thought must be two texts"),
        ("tools_in: there", "tools_in: 'there' is not one of"),
        ("extends: qwne", "extends: unknown name 'qwne'; did you mean"),
        ("extends: [qwen]", "extends: unknown name \"['qwen']\"; did you mean"),
    ],
)
def test_a_bad_yaml_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        get_template(build_tokenizer("qwen"), DataArguments(template=str(path)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_name_the_tokenizer_decides(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = build_tokenizer("chatml")
    caplog.set_level(logging.WARNING)
    assert get_template(tokenizer, DataArguments()).name == "default"
    assert "no chat template of its own" in caplog.text
    tokenizer.chat_template = bind(tokenizer, "chatml").jinja()
    template = get_template(tokenizer, DataArguments())
    assert isinstance(template, JinjaTemplate)
    assert ids_and_weights(template, sample([U, A])) == ids_and_weights(bind(tokenizer, "chatml"), sample([U, A]))


def test_eos_is_replaced_only_where_the_family_needs_it() -> None:
    tokenizer = build_tokenizer("chatml")
    tokenizer.eos_token = "<|im_start|>"
    assert bind(tokenizer, "chatml").stop_token_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert tokenizer.eos_token == "<|im_end|>"
    plain = build_tokenizer("default")
    assert bind(plain, "chatml").stop_token_ids == [plain.eos_token_id]
    assert plain.eos_token == "</s>"
    phi = build_tokenizer("phi4_mini")
    ends = phi.convert_tokens_to_ids(["<|endoftext|>", "<|end|>"])
    assert bind(phi, "phi4_mini").stop_token_ids == ends and phi.eos_token == "<|endoftext|>"


def test_missing_special_tokens_are_named(caplog: pytest.LogCaptureFixture) -> None:
    bind(build_tokenizer("default"), "chatml")
    assert "the tokenizer has no token <|im_start|>, <|im_end|>" in caplog.text
    caplog.clear()
    bind(build_tokenizer("chatml"), "chatml")
    assert not caplog.text


def test_images_need_another_template() -> None:
    template = bind(build_tokenizer("qwen"), "qwen")
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]}
    with pytest.raises(ConfigError, match="a message holds image"):
        template.encode_batch([sample([picture, A])])


def test_errors_name_the_row() -> None:
    from dataclasses import replace

    from llamafactory.data.messages import Origin

    template = bind(build_tokenizer("gemma"), "gemma")
    bad = replace(sample([{"role": "system", "content": "x"}, A]), origin=Origin("demo", "demo.json", 7))
    with pytest.raises(ConfigError, match=r"demo.json, row 7: template gemma: the system text goes into a user turn"):
        template.encode_batch([bad])


@pytest.mark.parametrize("name", ["qwen", "llama2", "gemma3", "mistral", "phi4", "deepseekr1", "vicuna", "alpaca"])
def test_modelfile(name: str) -> None:
    template = bind(build_tokenizer(name), name)
    text = modelfile(template, num_ctx=8192)
    assert text.startswith("FROM .\n") and text.endswith("PARAMETER num_ctx 8192\n")
    body = text.split('TEMPLATE """')[1].split('"""')[0]
    opened = body.count("{{ if") + body.count("{{ range")
    assert opened == body.count("{{ end }}")
    assert not body.startswith(template.tokenizer.bos_token or "-")
    assert f'PARAMETER stop "{template.tokenizer.eos_token}"' in text
    assert (f'SYSTEM """{template.chat.default_system}"""' in text) == bool(template.chat.default_system)


def test_modelfile_of_chatml_in_full() -> None:
    text = modelfile(bind(build_tokenizer("chatml"), "chatml"))
    assert text == (
        'FROM .\n\nTEMPLATE """{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}'
        '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
        '{{ else if eq .Role "tool" }}<|im_start|>tool\n{{ .Content }}<|im_end|>\n{{ end }}'
        '{{ if and (eq (len (slice $.Messages $i)) 1) (ne .Role "assistant") }}<|im_start|>assistant\n{{ end }}'
        '{{ end }}"""\n\nPARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 4096\n'
    )


def test_the_tables_and_the_door_import_no_torch() -> None:
    program = (
        "import sys, llamafactory.data, llamafactory.data.template_loader, llamafactory.plugins as p\n"
        "[p.resolve(kind, name) for kind in ('templates', 'tool_formats') for name in p.TABLES[kind]]\n"
        "llamafactory.data.get_template, llamafactory.data.render\n"
        "assert not {'torch', 'transformers', 'tokenizers', 'jinja2'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_in_the_tables_are_the_names_of_the_values() -> None:
    from llamafactory.plugins import TEMPLATES, resolve

    aliases = {"qwen2_5": "qwen", "llama3_2": "llama3_1", "llama3_3": "llama3_1"}
    for name in TEMPLATES:
        value: Any = resolve("templates", name)
        assert value.name == aliases.get(name, name)
