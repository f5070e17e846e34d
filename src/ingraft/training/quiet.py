"""Keep the libraries silent: their bars, load reports and warnings drown what the user asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_LIBRARIES = ("transformers", "sentence_transformers", "datasets", "peft", "accelerate", "huggingface_hub", "torch")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """No warnings and progress bars of the libraries inside the block; after it everything is as it was."""
    import datasets
    import transformers
    from huggingface_hub import utils as hub

    with ExitStack() as restore:
        restore.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in _LIBRARIES:
            logger = logging.getLogger(name)
            restore.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        if transformers.utils.logging.is_progress_bar_enabled():
            restore.callback(transformers.utils.logging.enable_progress_bar)
            transformers.utils.logging.disable_progress_bar()
        if not datasets.are_progress_bars_disabled():
            restore.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        if not hub.are_progress_bars_disabled():
            restore.callback(hub.enable_progress_bars)
            hub.disable_progress_bars()
        yield
