"""Imports without garbage collection."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from ingraft import startup
from ingraft.startup import importing


@pytest.mark.parametrize("before", [True, False])
def test_nothing_is_collected_in_the_block(before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "OWN_PROCESS", True)
    frozen = gc.get_freeze_count()
    if not before:
        gc.disable()
    try:
        with importing():
            assert not gc.isenabled()
            made = [[number] for number in range(100)]
        assert gc.isenabled() == before
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        gc.unfreeze()
        gc.enable()


def test_others_objects_are_not_kept_from_collection() -> None:
    frozen = gc.get_freeze_count()

    with importing():
        pass

    assert gc.get_freeze_count() <= frozen


def test_the_command_collects_what_it_makes_itself() -> None:
    code = (
        "import gc, sys; sys.argv = ['ingraft', '--version']\n"
        "from ingraft.__main__ import command\n"
        "try:\n    command()\nfinally:\n    print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert shown[0] == "ingraft"
    assert shown[2:] == ["True", "True"]
