"""`ingraft demo`: the whole way on a real model and real data, offline."""

from __future__ import annotations

from ingraft.cli.config_options import options_of
from ingraft.cli.format import Format
from ingraft.demo.config import DemoConfig


@options_of(DemoConfig)
def demo(config: DemoConfig, format: Format) -> None:
    """Fine-tune all-MiniLM-L6-v2 on ICD-10-CM, merge the adapter, prove it, compare the three models."""
    from ingraft.cli import show, show_demo
    from ingraft.demo.steps import run_demo

    with show_demo.observer(human=format == "human") as observe:
        result = run_demo(config, observe=observe)
    if format == "json":
        show.json(result.to_dict())
    else:
        show_demo.result(result)
