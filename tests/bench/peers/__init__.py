"""Processes that answer the bench's three pages, all before the same services: one module or script of this folder each.

`floor` is written by hand, `gateway` is ours, `mercurius.mjs` and Hive Gateway (`mesh.config.mjs`) are others' and need Node.
"""
