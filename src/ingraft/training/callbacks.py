"""What we hang into the library's trainer: steps for the observer, room on the disk, our own evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ingraft.training.facts import Step


def report_steps(on_step: Callable[[Step], None]) -> Any:
    """A callback that hands steps and the last logged loss to `on_step`."""
    from transformers import TrainerCallback

    class ReportSteps(TrainerCallback):  # type: ignore[misc,unused-ignore]
        loss: float | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(Step(state.global_step, state.max_steps, None))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(Step(state.global_step, state.max_steps, self.loss))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.loss = (logs or {}).get("loss", self.loss)

    return ReportSteps()


def before_saving(check: Callable[[], None]) -> Any:
    """A callback that calls `check` after a step whose checkpoint is to be written next."""
    from transformers import TrainerCallback

    class BeforeSaving(TrainerCallback):  # type: ignore[misc,unused-ignore]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if control.should_save:
                check()

    return BeforeSaving()


def evaluator(measure: Callable[[], Mapping[str, float]]) -> Any:
    """`measure` as the trainer wants it."""
    from sentence_transformers.base.evaluation import BaseEvaluator

    class Measure(BaseEvaluator):  # type: ignore[misc,unused-ignore]
        def __call__(self, model: Any, *_: Any, **kwargs: Any) -> dict[str, float]:
            return dict(measure())

    return Measure()  # type: ignore[no-untyped-call,unused-ignore]
