# SPDX-License-Identifier: Apache-2.0
"""Where rows come from: files, hubs, object stores; which sets there are, and how several become one."""
