"""Rows for methods that turn, scale or replace what the base has."""

from __future__ import annotations

from ingraft.methods.method import Method

ROWS: tuple[Method, ...] = ()
