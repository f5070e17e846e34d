"""How a verb prints what it has found: for a person, or as one JSON value on stdout."""

from __future__ import annotations

from typing import Literal

Format = Literal["human", "json"]
