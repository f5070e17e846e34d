"""Where the figures of a run go while it goes on, besides the terminal: the trainer's own callbacks for trackers.

None is switched on by itself, whatever is installed. One process reports, and nothing of the data is sent: losses,
learning rates, metrics and the trainer's arguments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ingraft.errors import UnusableInput, first_line

PROJECT = "ingraft"
_LOCAL = "tensorboard"


def check_trackers(names: Sequence[str]) -> None:
    """UnusableInput when the package of a tracker is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UnusableInput(
            f"--report-to names {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint=f"Run: pip install {' '.join(missing)}",
        )


def logs_folder(output: Path) -> Path:
    """Where TensorBoard's files of all runs that wrote to `output` are: beside it, never in it."""
    return output.with_name(f"{output.name}-logs")


def log_folder(output: Path, *, resume: bool = False) -> Path:
    """The folder of one run in there, by the time when it begins; a resumed run goes on in the latest."""
    folder = logs_folder(output)
    earlier = sorted(path for path in folder.iterdir() if path.is_dir()) if resume and folder.is_dir() else []
    return earlier[-1] if earlier else folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


class Trackers:
    """The trackers of a run: told what the trainer logs, and what is measured before and after it."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        """`folder` is TensorBoard's; the others have places of their own, which their environment variables name."""
        from transformers.integrations.integration_utils import get_reporting_integration_callbacks

        self._by_name: dict[str, Any] = {}
        kinds = get_reporting_integration_callbacks(list(names))  # type: ignore[no-untyped-call,unused-ignore]
        with _words_to_stderr():
            for name, kind in zip(names, kinds, strict=True):
                self._by_name[name] = kind()
        if _LOCAL in self._by_name:
            self._by_name[_LOCAL].logging_dir = str(folder)
        self._place: tuple[Any, ...] = ()
        self._model: Any = None
        self._run_of_the_users_own = False  # in a notebook, say: that is not ours to end

    def follow(self, trainer: Any, before: Mapping[str, float]) -> None:
        """Report what `trainer` logs; `before` first, at step 0."""
        from transformers import TrainerCallback

        trackers = self

        class Follow(TrainerCallback):  # type: ignore[misc,unused-ignore]
            # Not to the end of the training: what is measured afterwards is reported too.
            def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
                trackers._begin(args, state, control, model)
                if state.global_step == 0:
                    trackers.send(before)

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                trackers._log(logs)

        trainer.add_callback(Follow())

    def send(self, metrics: Mapping[str, float]) -> None:
        """Report what was measured at the step that the training has come to."""
        if metrics and self._place:
            self._log({f"test_{name}": value for name, value in metrics.items()})

    def _begin(self, args: Any, state: Any, control: Any, model: Any) -> None:
        self._place, self._model = (args, state, control), model
        self._run_of_the_users_own = "wandb" in self._by_name and self._by_name["wandb"]._wandb.run is not None
        for name, callback in self._by_name.items():
            try:
                with _words_to_stderr():
                    callback.on_train_begin(*self._place, model=model)
            except Exception as error:  # a tracker that wants a login, an address, a disk: each has errors of its own
                raise UnusableInput(
                    f"{name} could not begin: {first_line(error)}", hint="Mend that, or leave it out of --report-to."
                ) from None

    def _log(self, logs: Mapping[str, Any]) -> None:
        for callback in self._by_name.values():
            with _words_to_stderr():
                callback.on_log(*self._place, model=self._model, logs=dict(logs))

    def close(self) -> None:
        """Write what is left; to be called however the run ends."""
        if not self._place:
            return
        with _words_to_stderr():
            for name, callback in self._by_name.items():
                if name != "wandb":
                    callback.on_train_end(*self._place, model=self._model)
                elif not self._run_of_the_users_own:
                    callback._wandb.finish()


@contextmanager
def open_trackers(names: Sequence[str], output: Path, *, resume: bool = False) -> Iterator[Trackers | None]:
    """The trackers `names` for the run that writes to `output`; None where none is named."""
    if not names:
        yield None
        return
    with ExitStack() as end:
        # Only for this run: what a user has set in the environment goes before it.
        if "WANDB_PROJECT" not in os.environ:
            os.environ["WANDB_PROJECT"] = PROJECT
            end.callback(os.environ.pop, "WANDB_PROJECT", None)
        trackers = Trackers(names, log_folder(output, resume=resume))
        end.callback(trackers.close)
        yield trackers


@contextmanager
def _words_to_stderr() -> Iterator[None]:
    """What a tracker prints is no part of the result, which may be JSON."""
    with redirect_stdout(sys.stderr):
        yield
