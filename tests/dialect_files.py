# SPDX-License-Identifier: Apache-2.0
"""Configurations of other programs beside what a person would write for them here.

MODEL and DATA stand for paths. The first ten are trained in ``tests/train/test_dialect_runs.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

_AXOLOTL = "stage: sft\ndo_train: true\nfinetuning_type: full\nnum_train_epochs: 1.0\ncutoff_len: 512\n\
lr_scheduler_type: cosine\noverlong: drop\noutput_dir: ./model-out\nwarmup_steps: 0.03\nsave_strategy: epoch\n\
per_device_train_batch_size: 1\n"
_SWIFT = "stage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_alpha: 32\nlora_dropout: 0.05\n\
per_device_train_batch_size: 1\nper_device_eval_batch_size: 1\ngradient_accumulation_steps: 16\nweight_decay: 0.1\n\
adam_beta2: 0.95\nlearning_rate: 1.0e-4\nlr_scheduler_type: cosine\nlogging_steps: 5\nlogging_first_step: true\n\
report_to: tensorboard\noverlong: drop\noutput_dir: output\n"
_V1 = "stage: sft\ndo_train: true\nfinetuning_type: full\nper_device_train_batch_size: 1\ncutoff_len: 2048\n\
learning_rate: 1.0e-4\nnum_train_epochs: 3.0\nlogging_steps: 1\nbf16: true\nsave_strategy: 'no'\n"
_CHATS = "dataset: chats\ndataset_dir: {chats: {file_name: DATA/chats.jsonl, formatting: openai, columns: \
{messages: messages}}}\n"

# Title -> (dialect, the file, defaults of that program, what it says in our keys).
FILES: dict[str, tuple[str, str, str, str]] = {
    "axolotl: lora on instructions": (
        "axolotl",
        "base_model: MODEL\nadapter: lora\nlora_r: 16\nlora_alpha: 32\nlora_dropout: 0.0\nlora_target_linear: true\n"
        "datasets: [{path: DATA/rows.json, type: alpaca}]\nsequence_len: 256\nmicro_batch_size: 2\n"
        "gradient_accumulation_steps: 2\nlearning_rate: 0.001\noptimizer: adamw_torch\nwarmup_steps: 0\nseed: 7\n",
        _AXOLOTL,
        "model_name_or_path: MODEL\nfinetuning_type: lora\nlora_rank: 16\nlora_alpha: 32\nlora_target: all\n"
        "dataset: rows\ndataset_dir: {rows: {file_name: DATA/rows.json, columns: {prompt: instruction, query: input, "
        "response: output}}}\ntemplate: alpaca\ncutoff_len: 256\nper_device_train_batch_size: 2\n"
        "gradient_accumulation_steps: 2\nlearning_rate: 0.001\noptim: adamw_torch\nwarmup_steps: 0\nseed: 7\n",
    ),
    "axolotl: all weights, packed chats": (
        "axolotl",
        "base_model: MODEL\ndatasets: [{path: DATA/chats.jsonl, type: chat_template}]\nchat_template: chatml\n"
        "sequence_len: 256\nsample_packing: true\npad_to_sequence_len: true\neval_sample_packing: false\n"
        "micro_batch_size: 1\ngradient_accumulation_steps: 1\nlearning_rate: 5e-4\nlr_scheduler: linear\n"
        "warmup_ratio: 0.1\nnum_epochs: 2\nsaves_per_epoch: 2\n",
        _AXOLOTL,
        "model_name_or_path: MODEL\n" + _CHATS + "template: chatml\ncutoff_len: 256\npacking: true\n"
        "gradient_accumulation_steps: 1\nlearning_rate: 5.0e-4\nlr_scheduler_type: linear\nwarmup_steps: 0.1\n"
        "num_train_epochs: 2\nsave_strategy: steps\nsave_steps: 0.25\n",
    ),
    "axolotl: running text": (
        "axolotl",
        "base_model: MODEL\ndatasets:\n  - {path: DATA/texts.jsonl, type: completion, field: body}\nsequence_len: 128\n"
        "sample_packing: true\nmicro_batch_size: 2\ngradient_accumulation_steps: 1\nlearning_rate: 1e-3\n"
        "wandb_project:\nspecial_tokens:\n",
        _AXOLOTL,
        "model_name_or_path: MODEL\nstage: pt\ndataset: texts\ndataset_dir: {texts: {file_name: DATA/texts.jsonl, "
        "columns: {prompt: body}}}\ncutoff_len: 128\npacking: true\nper_device_train_batch_size: 2\n"
        "gradient_accumulation_steps: 1\nlearning_rate: 1.0e-3\n",
    ),
    "axolotl: dpo": (
        "axolotl",
        "base_model: MODEL\nrl: dpo\nrl_beta: 0.2\nadapter: lora\nlora_r: 8\nlora_alpha: 16\n"
        "lora_target_modules: [q_proj, v_proj]\ndatasets:\n  - {path: DATA/pairs.json, type: chatml.intel}\n"
        "chat_template: chatml\nmicro_batch_size: 1\ngradient_accumulation_steps: 2\nlearning_rate: 1e-3\n",
        _AXOLOTL,
        "model_name_or_path: MODEL\nstage: dpo\npref_loss: sigmoid\npref_beta: 0.2\nfinetuning_type: lora\n"
        "lora_rank: 8\nlora_alpha: 16\nlora_target: q_proj,v_proj\ndataset: pairs\ndataset_dir: {pairs: {file_name: "
        "DATA/pairs.json, ranking: true, columns: {system: system, prompt: question, chosen: chosen, rejected: "
        "rejected}}}\ntemplate: chatml\ngradient_accumulation_steps: 2\nlearning_rate: 1.0e-3\n",
    ),
    "ms-swift: lora": (
        "swift",
        "model: MODEL\nuse_hf: true\ntrain_type: lora\ndataset: [DATA/rows.json]\nlora_rank: 4\nlora_alpha: 8\n"
        "lora_dropout: 0\ntarget_modules: all-linear\nmax_length: 256\ntemplate: chatml\ntorch_dtype: float32\n"
        "per_device_train_batch_size: 2\ngradient_accumulation_steps: 2\nlearning_rate: 1e-3\nreport_to: none\n",
        _SWIFT,
        "model_name_or_path: MODEL\nhub: huggingface\ndataset: DATA/rows.json\nlora_rank: 4\nlora_alpha: 8\n"
        "lora_dropout: 0\nlora_target: all\ncutoff_len: 256\ntemplate: chatml\nper_device_train_batch_size: 2\n"
        "gradient_accumulation_steps: 2\nlearning_rate: 1.0e-3\nreport_to: none\n",
    ),
    "ms-swift: all weights, packed": (
        "swift",
        "model: MODEL\ntrain_type: full\ndataset: DATA/chats.jsonl#6\npacking: true\nmax_length: 256\n"
        "template: chatml\nwarmup_ratio: 0.05\ngradient_accumulation_steps: 1\nreport_to: none\nuse_hf: true\n"
        "add_version: false\n",
        _SWIFT,
        "model_name_or_path: MODEL\nfinetuning_type: full\ndataset: chats\ndataset_dir: {chats: {file_name: "
        "DATA/chats.jsonl, num_samples: 6, formatting: openai, columns: {messages: messages}}}\npacking: true\n"
        "cutoff_len: 256\ntemplate: chatml\nwarmup_steps: 0.05\ngradient_accumulation_steps: 1\nreport_to: none\n"
        "hub: huggingface\nlearning_rate: 1.0e-5\nlora_rank: null\nlora_alpha: null\nlora_dropout: null\n",
    ),
    "ms-swift: orpo": (
        "swift",
        "model: MODEL\nrlhf_type: orpo\nbeta: 0.3\ndataset: DATA/pairs.json\nlora_dropout: 0.0\n"
        "columns: {question: query, chosen: response, rejected: rejected_response, system: system}\n"
        "template: chatml\nmax_length: 256\ngradient_accumulation_steps: 1\nreport_to: none\n",
        _SWIFT,
        "model_name_or_path: MODEL\nstage: dpo\npref_loss: orpo\npref_beta: 0.3\ndataset: pairs\nlora_dropout: 0.0\n"
        "dataset_dir: {pairs: {file_name: DATA/pairs.json, ranking: true, columns: {prompt: question, response: "
        "chosen, chosen: chosen, rejected: rejected, system: system}}}\ntemplate: chatml\ncutoff_len: 256\n"
        "gradient_accumulation_steps: 1\nreport_to: none\n",
    ),
    "v1: lora": (
        "v1",
        "model: MODEL\npeft_config: {name: lora, r: 4, lora_alpha: 8, target_modules: [q_proj, v_proj]}\n"
        "train_dataset: DATA/rows.json\ncustom_chat_template: chatml\nmicro_batch_size: 2\nglobal_batch_size: 4\n"
        "cutoff_len: 256\nlearning_rate: 1.0e-3\nbf16: false\noutput_dir: out\nkernel_config: {name: auto}\n",
        _V1,
        "model_name_or_path: MODEL\nfinetuning_type: lora\nlora_rank: 4\nlora_alpha: 8\nlora_target: q_proj,v_proj\n"
        "dataset: DATA/rows.json\ntemplate: chatml\nper_device_train_batch_size: 2\ngradient_accumulation_steps: 2\n"
        "cutoff_len: 256\nlearning_rate: 1.0e-3\nbf16: false\noutput_dir: out\n",
    ),
    "v1: all weights from a list of sets": (
        "v1",
        "model: MODEL\ntrain_dataset: DATA/sets.yaml\ncustom_chat_template: chatml\nmicro_batch_size: 1\n"
        "batching_strategy: padding_free\nsave_steps: 50\nbf16: false\noutput_dir: out\n"
        "lr_scheduler_config: {name: cosine}\nenable_activation_checkpointing: true\noptim_config: {name: muon}\n",
        _V1,
        "model_name_or_path: MODEL\ndataset: first,second\ndataset_dir: {first: {file_name: DATA/rows.json, "
        "num_samples: 6}, second: {file_name: DATA/chats.jsonl, formatting: openai, columns: {messages: messages}}}\n"
        "template: chatml\npadding_free: true\nsave_strategy: steps\nsave_steps: 50\nbf16: false\noutput_dir: out\n"
        "lr_scheduler_type: cosine\ngradient_checkpointing: true\nuse_muon: true\n",
    ),
    "v1: pairs": (
        "v1",
        "model: MODEL\nstage: dpo\npref_beta: 0.2\ntrain_dataset: DATA/pair_sets.yaml\ncustom_chat_template: chatml\n"
        "micro_batch_size: 1\nbf16: false\noutput_dir: out\npeft_config: {name: freeze, freeze_trainable_layers: 1}\n",
        _V1,
        "model_name_or_path: MODEL\nstage: dpo\npref_beta: 0.2\ndataset: judged\ndataset_dir: {judged: {file_name: "
        "DATA/judged.jsonl, formatting: sharegpt, ranking: true, columns: {chosen: chosen, "
        "rejected: rejected}}}\ntemplate: chatml\nbf16: false\noutput_dir: out\nfinetuning_type: freeze\n"
        "freeze_trainable_layers: 1\n",
    ),
    "axolotl: qlora and sets of a hub": (
        "axolotl",
        "base_model: org/model\nload_in_4bit: true\nadapter: qlora\nlora_r: 32\nlora_alpha: 16\nlora_dropout: 0.05\n"
        "lora_target_linear: true\npeft_use_rslora: true\ndatasets:\n  - {path: org/one, split: test, type: alpaca}\n"
        "  - path: org/two\n    name: part\n    type: chat_template\n    field_messages: turns\n"
        "    message_property_mappings: {role: from, content: value}\nval_set_size: 0.05\nevals_per_epoch: 1\n"
        "learning_rate: 2e-4\nmicro_batch_size: 1\ngradient_accumulation_steps: 4\nbf16: true\nflash_attention: false\n"
        "early_stopping_patience: 3\nsave_steps: 50\neval_steps: 50\ngradient_checkpointing: offload\n",
        _AXOLOTL,
        "model_name_or_path: org/model\nquantization_bit: 4\nfinetuning_type: lora\nlora_rank: 32\nlora_alpha: 16\n"
        "lora_dropout: 0.05\nlora_target: all\nuse_rslora: true\ndataset: one,part\ntemplate: alpaca\n"
        "dataset_dir: {one: {hf_hub_url: org/one, split: test, columns: {prompt: instruction, query: input, response: "
        "output}}, part: {hf_hub_url: org/two, subset: part, formatting: sharegpt, columns: {messages: turns}, tags: "
        "{role_tag: from, content_tag: value}}}\nval_size: 0.05\neval_strategy: steps\neval_steps: 50\n"
        "learning_rate: 2.0e-4\ngradient_accumulation_steps: 4\nbf16: true\nearly_stopping_steps: 3\n"
        "save_strategy: steps\nsave_steps: 50\nactivation_offload: cpu\n",
    ),
    "axolotl: grpo": (
        "axolotl",
        "base_model: org/model\nrl: grpo\ntrl: {beta: 0.01, max_completion_length: 64, num_generations: 4, "
        "reward_funcs: [rewards.py:good], reward_weights: [1.0], temperature: 0.7, use_vllm: false}\n"
        "datasets: [{path: ./q.jsonl, type: {field_instruction: ask, field_output: answer}}]\nlearning_rate: 1e-6\n"
        "micro_batch_size: 4\ngradient_accumulation_steps: 1\nmax_steps: 10\n",
        _AXOLOTL,
        "model_name_or_path: org/model\nstage: grpo\nbeta: 0.01\nmax_new_tokens: 64\nnum_generations: 4\n"
        "reward_funcs: rewards.py:good\nreward_weights: '1.0'\ntemperature: 0.7\nrollout_engine: huggingface\n"
        "dataset: q\ndataset_dir: {q: {file_name: ./q.jsonl, ranking: true, columns: {prompt: ask, response: "
        "answer}}}\nlearning_rate: 1.0e-6\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 1\n"
        "max_steps: 10\n",
    ),
    "axolotl: sharded": (
        "axolotl",
        "base_model: org/model\ndatasets: [{path: ./a.json, type: alpaca.load}]\noptimizer: adamw_torch\n"
        "learning_rate: 1e-3\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\nfsdp: [full_shard, auto_wrap]\n"
        "fsdp_config: {fsdp_offload_params: false, fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer}\n"
        "cosine_min_lr_ratio: 0.1\n",
        _AXOLOTL,
        "model_name_or_path: org/model\ndataset: a\ndataset_dir: {a: {file_name: ./a.json, columns: {prompt: "
        "instruction, query: input, response: output}}}\ntemplate: alpaca\noptim: adamw_torch\nlearning_rate: 1.0e-3\n"
        "gradient_accumulation_steps: 1\nfsdp: [full_shard, auto_wrap]\nfsdp_config: {fsdp_offload_params: false, "
        "fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer}\nlr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr_rate: 0.1}\n",
    ),
    "axolotl: simpo": (
        "axolotl",
        "base_model: org/model\nrl: simpo\nrl_beta: 2.0\nsimpo_gamma: 1.5\nadapter: lora\nlora_r: 8\nlora_alpha: 8\n"
        "lora_target_linear: true\nlearning_rate: 8e-7\nmicro_batch_size: 1\ngradient_accumulation_steps: 8\n"
        "datasets: [{path: ./p.json, type: chat_template.default, field_messages: conversation}]\n",
        _AXOLOTL,
        "model_name_or_path: org/model\nstage: dpo\npref_loss: simpo\npref_beta: 2.0\nsimpo_gamma: 1.5\n"
        "finetuning_type: lora\nlora_rank: 8\nlora_alpha: 8\nlora_target: all\nlearning_rate: 8.0e-7\n"
        "gradient_accumulation_steps: 8\ndataset: p\ndataset_dir: {p: {file_name: ./p.json, formatting: openai, "
        "ranking: true, columns: {messages: conversation, chosen: chosen, rejected: rejected}}}\n",
    ),
    "ms-swift: qlora from ModelScope": (
        "swift",
        "model: org/model\ntuner_type: lora\ndataset: ['AI/set:part#500', 'HF::org/other']\nquant_method: bnb\n"
        "quant_bits: 4\nbnb_4bit_quant_type: nf4\ntorch_dtype: bfloat16\nsplit_dataset_ratio: 0.02\nsave_steps: 100\n"
        "truncation_strategy: right\nmax_length: 1024\nattn_impl: sdpa\nsystem: Be brief.\n",
        _SWIFT,
        "model_name_or_path: org/model\ndataset: set,other\ndataset_dir: {set: {ms_hub_url: AI/set, subset: part, "
        "num_samples: 500, formatting: openai, columns: {messages: messages}}, other: {hf_hub_url: org/other, "
        "formatting: openai, columns: {messages: messages}}}\nquantization_method: bnb\nquantization_bit: 4\n"
        "quantization_type: nf4\nbf16: true\nval_size: 0.02\nsave_steps: 100\neval_strategy: steps\neval_steps: 100\n"
        "overlong: keep_start\ncutoff_len: 1024\nflash_attn: sdpa\n"
        "default_system: Be brief.\n",
    ),
    "ms-swift: grpo": (
        "swift",
        "model: org/model\nrlhf_type: grpo\nnum_generations: 4\nmax_completion_length: 128\nreward_funcs: [accuracy, "
        "format]\ntemperature: 0.9\nscale_rewards: false\ndataset: ./q.jsonl\nuse_vllm: false\nlog_completions: true\n"
        "gradient_accumulation_steps: 4\nper_device_train_batch_size: 4\n",
        _SWIFT,
        "model_name_or_path: org/model\nstage: grpo\nbeta: 0.04\nnum_generations: 4\nmax_new_tokens: 128\n"
        "reward_funcs: accuracy,format\ntemperature: 0.9\nscale_rewards: none\ndataset: ./q.jsonl\n"
        "gradient_accumulation_steps: 4\nper_device_train_batch_size: 4\n",
    ),
    "ms-swift: towers": (
        "swift",
        "model: org/vl\nfreeze_vit: false\nfreeze_aligner: true\nvit_lr: 1e-5\nmax_pixels: 200704\ndataset: ./m.json\n"
        "learning_rate: 5e-5\nlr_scheduler_type: cosine\nper_device_train_batch_size: 2\n",
        _SWIFT,
        "model_name_or_path: org/vl\nfreeze_vision_tower: false\nfreeze_multi_modal_projector: true\n"
        "vision_tower_lr: 1.0e-5\nimage_max_pixels: 200704\ndataset: ./m.json\nlearning_rate: 5.0e-5\n"
        "per_device_train_batch_size: 2\ngradient_accumulation_steps: 8\n",
    ),
    "ms-swift: kto": (
        "swift",
        "model: org/model\nrlhf_type: kto\nbeta: 0.2\ndesirable_weight: 1.0\nundesirable_weight: 0.5\n"
        "dataset: ./k.jsonl\nuse_rslora: true\nneftune_noise_alpha: 5\ninit_weights: pissa_niter_4\n",
        _SWIFT,
        "model_name_or_path: org/model\nstage: kto\npref_beta: 0.2\nkto_chosen_weight: 1.0\nkto_rejected_weight: 0.5\n"
        "dataset: ./k.jsonl\nuse_rslora: true\nneftune_noise_alpha: 5\n"
        "pissa_init: true\npissa_iter: 4\n",
    ),
    "v1: sharded": (
        "v1",
        "model: org/model\ntrain_dataset: org/set\nmicro_batch_size: 1\noutput_dir: out\nsave_epochs: 1\n"
        "dist_config: {name: fsdp2, reshard_after_forward: true, offload_params: true}\nsave_ckpt_as_hf: true\n"
        "dist_timeout: 600\nmax_grad_norm: 0.5\n",
        _V1,
        "model_name_or_path: org/model\ndataset: org/set\noutput_dir: out\nsave_strategy: epoch\n"
        "fsdp: full_shard offload\nddp_timeout: 600\nmax_grad_norm: 0.5\n",
    ),
    "v1: quantized": (
        "v1",
        "model: org/model\ntrain_dataset: org/set\nmicro_batch_size: 2\noutput_dir: out\nquant_config: {name: bnb, "
        "quantization_bit: 4}\npeft_config: {name: lora, r: 8}\nbatching_strategy: normal\nbatching_workers: 4\n"
        "optim_config: null\nflash_attn: sdpa\ninit_config: {name: init_on_meta}\n",
        _V1,
        "model_name_or_path: org/model\ndataset: org/set\nper_device_train_batch_size: 2\noutput_dir: out\n"
        "quantization_method: bnb\nquantization_bit: 4\nfinetuning_type: lora\nlora_rank: 8\npadding_free: false\n"
        "preprocessing_num_workers: 4\nflash_attn: sdpa\n",
    ),
}


def theirs_and_ours(title: str, model: str, data: str) -> tuple[str, str, dict[str, Any]]:
    """Return the dialect, the file of the other program, and the keys that a person would write for it here."""
    name, theirs, silent, ours = FILES[title]

    def filled(text: str) -> str:
        return text.replace("MODEL", model).replace("DATA", data)

    written = {**yaml.safe_load(filled(silent)), **yaml.safe_load(filled(ours))}
    return name, filled(theirs), {key: value for key, value in written.items() if value is not None}


def write_data(folder: Path) -> None:
    """Write the rows and lists of sets that the files name."""
    rows = [{"instruction": f"Say {n}.", "input": "", "output": f"{n} {n + 1}"} for n in range(12)]
    chats = [
        {"messages": [{"role": "user", "content": f"Count {n}"}, {"role": "assistant", "content": f"{n}, {n + 1}"}]}
        for n in range(12)
    ]
    pairs = [{"system": "", "question": f"Q{n}?", "chosen": f"yes {n}", "rejected": "no"} for n in range(12)]
    judged = [
        {
            "chosen": [{"from": "human", "value": f"Q{n}?"}, {"from": "gpt", "value": "yes"}],
            "rejected": [{"from": "human", "value": f"Q{n}?"}, {"from": "gpt", "value": "no"}],
        }
        for n in range(12)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "pairs.json").write_text(json.dumps(pairs))
    for name, lines in (
        ("chats", chats),
        ("judged", judged),
        ("texts", [{"body": f"A text of {n} words. " * 4} for n in range(12)]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "sets.yaml").write_text(
        f"first: {{path: {folder}/rows.json, source: local, converter: alpaca, size: 6}}\n"
        f"second: {{path: {folder}/chats.jsonl, source: local}}\n"
    )
    (folder / "pair_sets.yaml").write_text(f"judged: {{path: {folder}/judged.jsonl, source: local, converter: pair}}\n")
