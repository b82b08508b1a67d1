#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Copies, shards, ZeRO and shared rows on 1 to 8 GPUs: tokens a second, MFU and peak memory of a 0.5B and an 8B shape with
# random weights, meant for less than 5 minutes; prints a table.
#
#     bash benchmarks/gpu_distributed.sh            on a machine with GPUs
#     bash benchmarks/gpu_distributed.sh --tiny     the same end to end with two processes on a CPU
#
# Needs this package with its dependencies, and deepspeed for the rows of ZeRO, which say so otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=src HF_HUB_OFFLINE=1 "${PYTHON:-python3}" benchmarks/gpu_distributed.py "$@"
