"""Processes that answer the three pages of the gateway's bench, with the same services: one module or script each.

`floor` is written by hand, `gateway` is Quanyu's; `mercurius.mjs` and Hive Gateway (`mesh.config.mjs`) need Node.
"""
