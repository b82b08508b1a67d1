#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every method, quantizer, optimizer, number format and memory key on one GPU, in under 5 minutes; prints a table.
#
#     bash benchmarks/gpu_methods.sh            on a machine with a GPU
#     bash benchmarks/gpu_methods.sh --tiny     the same end to end on a CPU
#
# Needs torch (CUDA), transformers 5 and pyyaml; no network, no data set, no package `datasets`. Wheels that the machine lacks
# lie in the folder `wheels/` of this checkout and are put into a virtual environment of their own beside the machine's
# packages. Fetch them where there is a network:
#
#     pip download -d wheels --no-deps peft==0.21.2 accelerate==1.15.0 bitsandbytes==0.50.2 hqq==0.2.8.post1 \
#         optimum-quanto==0.2.7 torchao==0.18.0 liger-kernel==0.8.5 schedulefree==1.4.1 prodigyopt==1.1.2 \
#         pytorch_optimizer==4.1.0 lion-pytorch==0.2.5
#
# Without a wheel the rows of its package say so; peft and accelerate are always needed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ -d wheels ]; then
    environment=$(mktemp -d)
    trap 'rm -rf "$environment"' EXIT
    "$python" -m venv --system-site-packages "$environment"
    "$environment/bin/python" -m pip install --quiet --no-index --no-deps wheels/*.whl
    python=$environment/bin/python
fi
PYTHONPATH=src HF_HUB_OFFLINE=1 "$python" benchmarks/gpu_methods.py "$@"
