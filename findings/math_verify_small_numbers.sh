#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# math-verify 0.9.0 (latex2sympy2-extended 1.11.0): two decimals are rounded to six places *after the point* before they are compared,
# so any two decimals below 5e-7 are equal: a wrong answer in metres, moles or probabilities (2e-7 for 1e-7) earns the whole reward of an RL
# run, with no way back through `float_rounding` alone, which is counted in places as well. An integer beside a decimal is compared exactly:
# 0.0000001 is not 0, while 0.0000001 is 0.0000002. Large numbers are told apart. Seen on 2026-11-29.
# Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet math-verify==0.9.0 latex2sympy2_extended==1.11.0 antlr4-python3-runtime==4.13.2
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from math_verify import parse, verify


def same(gold, answer, **options):
    return verify(parse(gold), parse(answer), **options)


pairs = [("0.0000001", "0.0000002"), (r"\boxed{0.0000004}", r"\boxed{0.0000003}"), ("3.1415926", "3.1415927"), ("0.0000001", "0"), ("1234567.1", "1234567.2")]
seen = [same(*pair) for pair in pairs]
finer = same("0.00000000000001", "0.00000000000002", float_rounding=12)
for pair, equal in zip(pairs, seen):
    print(*pair, "equal" if equal else "different", sep="   ")
print("with float_rounding=12: 1e-14 and 2e-14", "equal" if finer else "different")
assert seen == [True, True, True, False, False] and finer, "changed"
PYTHON
echo "as stated"
