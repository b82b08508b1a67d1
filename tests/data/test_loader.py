# SPDX-License-Identifier: Apache-2.0
"""From data set names to features: parts, mixes, packing, caches, several processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.prepare import prepared
from llamafactory.data.processor import PretrainProcessor, PromptProcessor, SupervisedProcessor
from llamafactory.extras.errors import ConfigError

from .conftest import Prepare, alpaca_rows, write_jsonl


class CountingProcessor(SupervisedProcessor):
    """Counts the samples it encodes, to tell a cached result from a new one."""

    def __init__(self) -> None:
        self.samples = 0

    def encode(self, samples: Any, *rest: Any) -> Any:
        self.samples += len(samples)
        return super().encode(samples, *rest)


def answers(rows: Any, tokenizer: Any) -> list[str]:
    return [tokenizer.decode([t for t in row["labels"] if t != -100]).split("<")[0].strip() for row in rows]


@pytest.fixture
def numbered(tmp_path: Path) -> str:
    """40 questions whose answers name their row."""
    return write_jsonl(tmp_path / "numbered.jsonl", [{"prompt": f"n {i}", "response": f"{i}"} for i in range(40)])


def test_features_are_the_template_s_tokens_with_labels_under_the_answer(
    prepare: Prepare, numbered: str, tokenizer: Any
) -> None:
    rows = prepare(dataset=numbered, max_samples=3).train
    assert rows.column_names == ["input_ids", "labels", "seq_lens", "source"]
    chat = [{"role": "user", "content": "n 2"}, {"role": "assistant", "content": "2"}]
    assert rows[2]["input_ids"] == tokenizer.apply_chat_template(chat, return_dict=False)
    assert tokenizer.decode([t for t in rows[2]["labels"] if t != -100]) == "2<|im_end|>"
    assert rows[2]["source"] == numbered
    assert len(rows) == 3


def test_held_out_rows_are_apart_the_same_for_prompts_and_for_each_seed(
    prepare: Prepare, numbered: str, tokenizer: Any
) -> None:
    module = prepare(dataset=numbered, val_size=0.25)
    train, held = answers(module.train, tokenizer), answers(module.eval[""], tokenizer)
    assert sorted(train + held, key=int) == [str(i) for i in range(40)]
    assert len(held) == 10
    prompts = prepare(PromptProcessor(), dataset=numbered, val_size=0.25)
    assert prompts.train is None
    assert prompts.eval[""]["reference"] == held
    assert tokenizer.decode(prompts.eval[""][0]["input_ids"]).endswith("<|im_start|>assistant\n")
    other = prepare(dataset=numbered, val_size=10, seed=7)
    assert len(other.eval[""]) == 10
    assert answers(other.eval[""], tokenizer) != held


def test_eval_sets_stay_apart_or_join(prepare: Prepare, numbered: str, tmp_path: Path) -> None:
    second = write_jsonl(tmp_path / "second.jsonl", alpaca_rows(5))
    keys = {"dataset": numbered, "eval_dataset": f"{numbered},{second}", "do_eval": True}
    joined = prepare(**keys).eval
    assert {name: len(rows) for name, rows in joined.items()} == {"": 45}
    apart = prepare(**keys, eval_on_each_dataset=True).eval
    assert {name: len(rows) for name, rows in apart.items()} == {numbered: 40, second: 5}


def test_num_samples_takes_each_row_as_evenly_as_possible(prepare: Prepare, numbered: str, tmp_path: Path) -> None:
    for number in (15, 100):
        columns = {"prompt": "prompt", "response": "response"}
        listing = {"n": {"file_name": "numbered.jsonl", "num_samples": number, "columns": columns}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(listing))
        rows = prepare(dataset="n").train
        counts = Counter(map(tuple, rows["input_ids"])).values()
        assert len(rows) == number
        assert max(counts) - min(counts) <= 1


def test_the_realised_mix_is_reported(prepare: Prepare, numbered: str, tmp_path: Path) -> None:
    second = write_jsonl(tmp_path / "second.jsonl", alpaca_rows(400))
    module = prepare(dataset=f"{numbered},{second}", mix_strategy="interleave_over", interleave_probs="1,3")
    by_source = [module.train["source"][:].count(name) for name in (numbered, second)]
    assert [source.used for source in module.report.sources] == by_source
    assert by_source[1] >= 400
    assert by_source[1] / sum(by_source) == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("key", ["packing", "neat_packing"])
def test_packing_keeps_every_sequence_whole(prepare: Prepare, tmp_path: Path, key: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(300, words=60))
    plain, packed = prepare(dataset=path, cutoff_len=256), prepare(dataset=path, cutoff_len=256, **{key: True})
    sequences = []
    for row in packed.train:
        start = 0
        for length in row["seq_lens"]:
            assert row["labels"][start] == -100
            sequences.append(
                (tuple(row["input_ids"][start : start + length]), tuple(row["labels"][start : start + length]))
            )
            start += length
        assert start == len(row["input_ids"]) == len(row["labels"]) <= 256
    expected = [(tuple(row["input_ids"]), tuple(row["labels"])) for row in plain.train]
    assert sorted(sequences) == sorted(expected)
    assert packed.report.fill >= 0.98
    assert packed.report.train_rows == len(packed.train) < len(plain.train) / 2


def test_pretraining_packs_and_splits_unless_told_otherwise(prepare: Prepare, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("\n".join("word " * n for n in range(1, 200)))
    keys = {"dataset": str(tmp_path / "t.txt"), "stage": "pt", "cutoff_len": 64}
    packed = prepare(PretrainProcessor(), **keys)
    assert packed.report.overlong == "split"
    assert packed.report.fill > 0.98
    assert packed.report.sources[0].lost <= 199
    plain = prepare(PretrainProcessor(), **keys, packing=False, overlong="truncate")
    assert len(plain.train) == 199
    assert all(len(lens) == 1 for lens in plain.train["seq_lens"])


def test_pretraining_trains_the_text_of_every_turn_calls_too(prepare: Prepare, tokenizer: Any, tmp_path: Path) -> None:
    arguments = {"city": "Köln", "days": 2}
    call = {"name": "weather", "arguments": arguments}
    turns = [("human", "Rain?"), ("gpt", "I look."), ("function_call", json.dumps([call, call])), ("observation", "no")]
    chat = {"conversations": [{"from": name, "value": text} for name, text in [*turns, ("gpt", "No.")]]}
    alone = {"conversations": [{"from": "human", "value": "a"}, {"from": "function_call", "value": json.dumps(call)}]}
    path = write_jsonl(tmp_path / "a.jsonl", [chat, alone])
    found = prepare(PretrainProcessor(), dataset=path, stage="pt", cutoff_len=512, packing=False)
    line = '{"name": "weather", "arguments": {"city": "Köln", "days": 2}}'
    wanted = [f"Rain?\nI look.\n{line}\n{line}\nno\nNo.", f"a\n{line}"]
    assert [row["input_ids"] for row in found.train] == [
        [*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in wanted
    ]
    assert found.report.sources[0].unread == []


def test_pretraining_on_questions_and_answers_trains_both_unless_columns_say_less(
    prepare: Prepare, tokenizer: Any, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"instruction": "Say", "input": "it", "output": "again"}])
    for columns, text in ((None, "Say\nit\nagain"), ({"prompt": "instruction", "query": "input"}, "Say\nit")):
        entry = {"file_name": "a.jsonl", **({"columns": columns} if columns else {})}
        (tmp_path / "dataset_info.json").write_text(json.dumps({"a": entry}))
        (row,) = prepare(PretrainProcessor(), dataset="a", stage="pt", packing=False).train
        assert row["input_ids"] == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def test_weights_appear_only_where_a_trained_token_s_weight_is_not_one(
    prepare: Prepare, numbered: str, tmp_path: Path
) -> None:
    chat = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "train": False},
        {"role": "user", "content": "r"},
        {"role": "assistant", "content": "b", "weight": 0.5},
    ]
    weighted = write_jsonl(tmp_path / "w.jsonl", [{"messages": chat}])
    rows = prepare(dataset=f"{weighted},{numbered}", packing=True).train
    assert "weights" in rows.column_names
    pairs = [(label, weight) for row in rows for label, weight in zip(row["labels"], row["weights"], strict=True)]
    assert sum(weight == 0.5 and label != -100 for label, weight in pairs) == 2  # "b" and its end
    assert {weight for label, weight in pairs if label != -100} == {0.5, 1.0}
    unweighted = write_jsonl(tmp_path / "u.jsonl", [{"messages": chat[:2] + chat[2:3] + [{**chat[3], "weight": 1}]}])
    assert "weights" not in prepare(dataset=unweighted).train.column_names


def test_several_processes_give_the_same_features(prepare: Prepare, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", alpaca_rows(50))
    one = prepare(dataset=path, preprocessing_batch_size=7)
    two = prepare(dataset=path, preprocessing_batch_size=7, preprocessing_num_workers=2, overwrite_cache=True)
    assert one.train[:] == two.train[:]
    write_jsonl(tmp_path / "a.jsonl", [*alpaca_rows(20), {"instruction": 1, "output": "x"}])
    with pytest.raises(ConfigError, match=r"a\.jsonl line 21: field 'instruction'"):
        prepare(dataset=path, preprocessing_batch_size=7, preprocessing_num_workers=2)


CHANGES: list[dict[str, Any]] = [
    {"cutoff_len": 99}, {"template": "qwen"}, {"mask_history": True}, {"train_on_prompt": True}, {"packing": True},
    {"overlong": "drop"}, {"max_samples": 9}, {"default_system": "Hi."}, {"seed": 1},
]  # fmt: skip


def test_the_cache_misses_what_matters_and_hits_the_rest(prepare: Prepare, numbered: str) -> None:
    processor = CountingProcessor()

    def encodes(**keys: Any) -> bool:
        before = processor.samples
        prepare(processor, dataset=numbered, **keys)
        return processor.samples > before

    assert encodes()
    assert not encodes()
    assert not encodes(learning_rate=1e-3, per_device_train_batch_size=3)
    assert all(encodes(**change) for change in CHANGES)
    assert encodes(overwrite_cache=True)
    with open(numbered, "a") as file:
        file.write('{"prompt": "more", "response": "rows"}\n')
    assert encodes()


def test_tokenized_path_is_written_whole_and_read_back(prepare: Prepare, numbered: str, tmp_path: Path) -> None:
    from datasets import load_from_disk

    folder = str(tmp_path / "tokens")
    keys = {"dataset": numbered, "tokenized_path": folder, "val_size": 4}
    first = prepare(**keys)
    processor = CountingProcessor()
    again = prepare(processor, **keys)
    assert processor.samples == 0
    assert again.train[:] == first.train[:]
    assert again.report == first.report
    stock = load_from_disk(folder)
    assert {name: len(rows) for name, rows in stock.items()} == {"train": 36, "validation": 4}
    os.unlink(numbered)
    assert len(prepare(processor, **keys).train) == 36, "the raw files may be elsewhere"
    assert not list(tmp_path.glob(".tokens*")), "no temporary folder is left"


@pytest.mark.parametrize("overwrite", [False, True])
def test_tokenized_path_never_takes_the_place_of_what_is_there(
    prepare: Prepare, numbered: str, tmp_path: Path, overwrite: bool
) -> None:
    """A folder of somebody's own, that of the data set itself, and a file: all of them are there afterwards."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.md").write_text("x")
    data = Path(numbered)
    before = data.read_bytes()
    for folder, found in ((own, "thesis.md"), (data.parent, min(path.name for path in data.parent.iterdir()))):
        with pytest.raises(
            ConfigError, match=rf"tokenized_path: .* holds '{re.escape(found)}' and is no prepared data"
        ):
            prepare(dataset=numbered, tokenized_path=str(folder), overwrite_cache=overwrite)
    with pytest.raises(ConfigError, match=r"tokenized_path: .* is a file"):
        prepare(dataset=numbered, tokenized_path=numbered, overwrite_cache=overwrite)
    assert (own / "thesis.md").read_text() == "x" and data.read_bytes() == before
    assert [path.name for path in own.iterdir()] == ["thesis.md"]


def test_a_pulse_that_cannot_be_written_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full or read-only disk whoever writes the data says so; the thread beside it stays silent."""
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    with prepared._beating(tmp_path / "nowhere" / "data"):
        pass
    assert not raised


def test_tokenized_path_may_be_an_empty_folder_or_a_link_to_one(
    prepare: Prepare, numbered: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert len(prepare(dataset=numbered, tokenized_path=str(tmp_path / "link")).train)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "empty" / "llamafactory_data.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cutoff_len": 99}, "cutoff_len 2048 (now 99)"),
        ({"template": "llama3"}, "template 'chatml' (now 'llama3')"),
        ({"train_on_prompt": True}, "train_on_prompt False (now True)"),
        ({"overlong": "split", "max_samples": 7}, "overlong 'truncate' (now 'split'), max_samples None (now 7)"),
    ],
)
def test_tokenized_path_made_with_other_settings_is_refused(
    prepare: Prepare, numbered: str, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    folder = str(tmp_path / "tokens")
    prepare(dataset=numbered, tokenized_path=folder)
    with pytest.raises(ConfigError) as caught:
        prepare(dataset=numbered, tokenized_path=folder, **change)
    assert words in str(caught.value)
    assert folder in str(caught.value)


def test_tokenized_path_knows_changed_rows_and_another_tokenizer(
    prepare: Prepare, numbered: str, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "tokens")
    prepare(dataset=numbered, tokenized_path=folder)
    with open(numbered, "a") as file:
        file.write('{"prompt": "more", "response": "rows"}\n')
    with pytest.raises(ConfigError, match=r"the data of .*numbered\.jsonl \(changed\)"):
        prepare(dataset=numbered, tokenized_path=folder)
    write_jsonl(Path(numbered), [{"prompt": f"n {i}", "response": f"{i}"} for i in range(40)])
    other = json.loads(tokenizer.backend_tokenizer.to_str())
    other["model"]["vocab"]["new"] = len(tokenizer)
    changed = type(tokenizer.backend_tokenizer).from_str(json.dumps(other))
    monkeypatch.setattr(type(tokenizer), "backend_tokenizer", changed)
    with pytest.raises(ConfigError, match="tokenizer"):
        prepare(dataset=numbered, tokenized_path=folder)


def test_a_folder_that_llama_factory_made_is_taken_with_a_warning(
    prepare: Prepare, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from datasets import Dataset, DatasetDict

    row = {"input_ids": [5, 6, 7, 8], "attention_mask": [1, 1, 2, 2], "labels": [5, 6, 7, -100], "images": None}
    DatasetDict(train=Dataset.from_list([row]), validation=Dataset.from_list([row])).save_to_disk(tmp_path / "theirs")
    module = prepare(tokenized_path=str(tmp_path / "theirs"))
    expected = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, -100], "seq_lens": [2, 2], "source": "tokenized"}
    assert module.train[:] == {name: [value] for name, value in expected.items()}
    assert list(module.eval) == [""]


PACK = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, 8, 9]}
APART = {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, 6, -100, 8, 9], "seq_lens": [2, 3], "source": "tokenized"}


@pytest.mark.parametrize(
    "border",
    [
        {"position_ids": [0, 1, 0, 1, 2]}, {"position_ids": [0, 1, 0, 1, 2], "attention_mask": [1] * 5},
        {"seq_lengths": [2, 3]}, {"seq_lens": [2, 3]}, {"attention_mask": [1, 1, 2, 2, 2]},
    ],
)  # fmt: skip
@pytest.mark.parametrize("padded", [False, True])
def test_borders_of_packs_are_read_wherever_they_stand(
    prepare: Prepare, tmp_path: Path, border: dict[str, Any], padded: bool
) -> None:
    from datasets import Dataset

    row = {**PACK, **border}
    if padded:  # as LLaMA-Factory does, with or without numbers in the mask
        fill = {"labels": -100, "attention_mask": int(border.get("attention_mask") == [1] * 5)}
        row = {name: [*value, *[fill.get(name, 0)] * 2] for name, value in row.items() if name[:3] != "seq"} | {
            name: [*value, 2] for name, value in row.items() if name[:3] == "seq"
        }
        row.setdefault("attention_mask", [1] * 5 + [0] * 2)
    Dataset.from_list([row, PACK]).save_to_disk(tmp_path / "theirs")
    first, second = prepare(tokenized_path=str(tmp_path / "theirs")).train
    assert first == APART
    assert second["seq_lens"] == [5]


@pytest.mark.parametrize(
    ("border", "message"),
    [
        ({"position_ids": [0, 1, 5, 6, 7]}, "row 1: position_ids go from 1 to 5, which is no border of a pack"),
        ({"position_ids": [[0, 1, 2, 3, 4]] * 3}, "row 1: position_ids is no list of 5 numbers"),
        ({"seq_lengths": [2, 2]}, "row 1: seq_lengths add up to 4, input_ids has 5"),
        ({"attention_mask": [1, 1]}, "row 1: attention_mask is no list of 5 numbers"),
        ({"cu_seqlens": [0, 2, 5]}, "row 1: column 'cu_seqlens' is not read: borders of packs are read from seq_lens"),
        (
            {"images": ["a.png"]},
            "row 1: column 'images' is not read: media are read from files in training; give the raw rows with dataset",
        ),
        ({"input_ids": [5, 6, 7, 8, 99999]}, "row 1: token 99999 is none of the tokenizer's"),
    ],
)
def test_borders_that_cannot_be_read_are_refused(
    prepare: Prepare, tmp_path: Path, border: dict[str, Any], message: str
) -> None:
    from datasets import Dataset

    Dataset.from_list([PACK | border]).save_to_disk(tmp_path / "theirs")
    with pytest.raises(ConfigError, match=f"tokenized_path: .*theirs, split train, {message}"):
        prepare(tokenized_path=str(tmp_path / "theirs"))


@pytest.mark.parametrize("name", ["completion_mask", "assistant_masks"])
def test_masks_of_another_program_are_obeyed(prepare: Prepare, tmp_path: Path, name: str) -> None:
    from datasets import Dataset

    Dataset.from_list([PACK | {name: [0, 0, 1, 0, 1]}]).save_to_disk(tmp_path / "theirs")
    (row,) = prepare(tokenized_path=str(tmp_path / "theirs")).train
    assert row["labels"] == [-100, -100, 7, -100, 9]


def test_a_folder_of_another_program_is_for_stages_of_single_sequences(prepare: Prepare, tmp_path: Path) -> None:
    from datasets import Dataset

    from llamafactory.data.processor import FeedbackProcessor

    Dataset.from_list([PACK]).save_to_disk(tmp_path / "theirs")
    with pytest.raises(ConfigError, match="read for stages sft and pt; this stage needs rows with desirable"):
        prepare(FeedbackProcessor(), stage="kto", tokenized_path=str(tmp_path / "theirs"))


def test_of_two_processes_one_encodes_and_both_read(prepare: Prepare, numbered: str, tmp_path: Path) -> None:
    def work(rank: int) -> None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        processor = CountingProcessor()
        rows = prepare(processor, dataset=numbered).train
        (tmp_path / f"{rank}.json").write_text(json.dumps([processor.samples, rows[:]]))

    processes = [multiprocessing.get_context("fork").Process(target=work, args=(rank,)) for rank in (1, 0)]
    for process in processes:
        process.start()
        time.sleep(0.5)  # the one that must wait is there first
    for process in processes:
        process.join(60)
    encoded, rows = zip(*(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)), strict=True)
    assert encoded == (40, 0), "each row is tokenized once"
    assert rows[0] == rows[1]
    assert len(rows[0]["input_ids"]) == 40


def test_a_silent_builder_ends_the_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "SILENCE_SECONDS", 0.5)
    with pytest.raises(RuntimeError, match="silent"):
        prepared.prepare_once(tmp_path / "never", lambda staging: None, builder=False, rebuild=False)


def test_a_failed_preparation_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"

    def build(staging: Path) -> None:
        (staging / prepared.MANIFEST).write_text("{}")

    def fail(staging: Path) -> None:
        (staging / "half").write_text("")
        raise ConfigError("broken")

    prepared.prepare_once(folder, build, builder=True, rebuild=False)
    with pytest.raises(ConfigError):
        prepared.prepare_once(folder, fail, builder=True, rebuild=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert prepared.is_prepared(folder)


def test_the_report_counts_every_row_and_its_reason(prepare: Prepare, tmp_path: Path) -> None:
    rows = [*alpaca_rows(6), {"instruction": "open", "output": ""}, {"instruction": "x", "output": "word " * 400}]
    report = prepare(dataset=write_jsonl(tmp_path / "a.jsonl", rows), cutoff_len=64).report
    (source,) = report.sources
    assert (source.rows, source.kept, source.cut, source.unanswered) == (8, 6, 1, 1)
    assert source.lost == source.longest - 64 > 300
    assert sum(source.histogram) == 7
    assert source.histogram[-1] == 1
    assert (report.train_rows, report.train_tokens) == (7, source.tokens_out)
    shown = report.table()
    assert [list(column.cells) for column in shown.columns[1:6]] == [["8"], ["6"], ["1"], ["0"], ["1"]]
    assert report.notes() == [f"dropped from {source.name}: 1 no answer"]


@pytest.mark.parametrize("thoughts", ["mask", "split", "train"])
def test_answers_that_stand_without_their_thoughts_are_counted_and_said_once_before_training(
    thoughts: str, prepare: Prepare, tmp_path: Path, capsys: Any
) -> None:
    """2 rows of 3 answers and 1 of one: 4 earlier answers stand bare; said when prepared, and out of the cache."""
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "hm"}]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": turns * count} for count in (3, 1, 3)])
    for _ in range(2):
        found = prepare(dataset=path, template="qwen3", thoughts=thoughts, cutoff_len=512)
        said = " ".join(capsys.readouterr().err.split())
        assert said.count("4 earlier answers stand in the whole text otherwise") == (thoughts != "train")
        assert said.count("not trained in") == (thoughts == "mask")
        assert found.report.sources[0].rewritten == (4 if thoughts != "train" else 0)
        assert len(found.train) == (7 if thoughts == "split" else 3)
