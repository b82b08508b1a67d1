# SPDX-License-Identifier: Apache-2.0
"""What the command ``doctor`` looks at: this machine, the machines together, their disks and their network."""
