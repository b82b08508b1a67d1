#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# safetensors 0.8.0: `save_file` writes files that only their owner may read (mode 0600), whatever the umask says; json.dump or torch.save beside it
# give 0644 under umask 022. `save_pretrained` of transformers and PEFT writes through it, so a folder that is trained by one user cannot be served by
# another (a container, a share) although every other file of it can be read; 0.5.3 and 0.6.2 still gave 0644.
# Seen on 2026-11-29. Fails when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
umask 022
for version in 0.5.3 0.6.2 0.8.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet numpy==2.3.4 "safetensors==$version"
  "$folder/$version/bin/python" - "$folder/$version.safetensors" <<'PYTHON'
import sys

import numpy
from safetensors.numpy import save_file

save_file({"weight": numpy.zeros(4, numpy.float32)}, sys.argv[1])
PYTHON
  mode=$(stat -c %a "$folder/$version.safetensors")
  echo "safetensors $version: mode $mode"
  if [ "$version" = 0.8.0 ]; then test "$mode" = 600; else test "$mode" = 644; fi
done
echo "as stated"
