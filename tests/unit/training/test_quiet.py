"""Libraries are silenced while they work for us, and get their voices back."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from contextlib import nullcontext

import pytest

from ingraft.errors import UnusableInput
from ingraft.training.quiet import import_libraries, quiet_libraries


def test_everything_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import transformers

    def state() -> tuple[object, ...]:
        return (
            transformers.utils.logging.is_progress_bar_enabled(),
            datasets.are_progress_bars_disabled(),
            [logging.getLogger(name).level for name in ("transformers", "sentence_transformers", "datasets")],
            list(warnings.filters),
            logging.root.manager.disable,
        )

    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", True)
    monkeypatch.setattr(logging.getLogger("transformers"), "level", logging.INFO)
    before = state()
    with quiet_libraries():
        assert not transformers.utils.logging.is_progress_bar_enabled()
        assert datasets.are_progress_bars_disabled()
        assert not logging.getLogger("transformers.modeling_utils").isEnabledFor(logging.WARNING)
        warnings.warn("unheard", UserWarning, stacklevel=1)  # an error outside, as pytest is set up
    assert state() == before
    import_libraries()
    assert state() == before


@pytest.mark.parametrize("ours", [True, False])
def test_bars_that_nobody_asked_for(ours: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Such as those of the mining, which has no switch for them."""
    import tqdm
    import tqdm.autonotebook

    with quiet_libraries() if ours else nullcontext():
        assert list(tqdm.tqdm(range(3))) == list(tqdm.trange(3)) == [0, 1, 2]
        for _ in tqdm.autonotebook.trange(3, desc="Batches", disable=False):
            pass
    assert ("Batches" in capfd.readouterr().err) is not ours


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.__import__", _without("peft"))
    with pytest.raises(UnusableInput, match="needs the package peft") as error:
        import_libraries()
    assert "pip install 'ingraft[train]'" in error.value.hint


def _without(missing: str) -> object:
    original = __import__

    def importing(name: str, *rest: object, **options: object) -> object:
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *rest, **options)  # type: ignore[arg-type]

    return importing


def test_threads_sleep_unless_told_otherwise() -> None:
    code = "import os; from ingraft.training.quiet import share_cores as f; f(); print(os.environ['OMP_WAIT_POLICY'])"
    for told, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment |= {"OMP_WAIT_POLICY": told} if told else {}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
