"""Keep the libraries quiet, on the terminal and on the processor."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from ingraft.errors import UnusableInput

_LIBRARIES = (
    "transformers", "sentence_transformers", "datasets", "peft", "accelerate", "huggingface_hub", "torch",
)  # fmt: skip


def share_cores() -> None:
    """Let torch's threads sleep while they wait for one another; to be called before torch is imported.

    Spinning threads starve each other as soon as anything else runs: eight steps of a small model took 11 s with
    sleeping threads and 110 s with spinning ones, on two cores with one other busy process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def import_libraries() -> None:
    """Import what training needs, at once and silently; UnusableInput names what is not installed."""
    share_cores()
    disabled = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.disable(logging.ERROR)
            with redirect_stdout(sys.stderr):  # transformers prints where WANDB_MODE is offline
                import accelerate  # noqa: F401
                import datasets  # noqa: F401
                import peft  # noqa: F401
                import sentence_transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise UnusableInput(
            f"Training needs the package {error.name}, which is not installed.",
            hint="Run: pip install 'ingraft[train]'",
        ) from None
    finally:
        logging.disable(disabled)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No warnings, load reports and bars of the libraries inside the block; after it everything is as it was."""
    import datasets
    import transformers

    with ExitStack() as restore:
        restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in _LIBRARIES:
            logger = logging.getLogger(name)
            restore.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        # (These two switch the bars of huggingface_hub as well.)
        if transformers.utils.logging.is_progress_bar_enabled():
            restore.callback(transformers.utils.logging.enable_progress_bar)
            transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        if not datasets.are_progress_bars_disabled():
            restore.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        restore.enter_context(_no_bars())
        yield


@contextmanager
def _no_bars() -> Iterator[None]:
    """No bar of tqdm: not every library has a switch for its bars, and the mining of negatives has none."""
    from tqdm import tqdm

    original = tqdm.__init__

    def without_bar(self: Any, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **{**options, "disable": True})

    tqdm.__init__ = without_bar
    try:
        yield
    finally:
        tqdm.__init__ = original
