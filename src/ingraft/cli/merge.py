"""`ingraft merge`: an adapter into its base, proven and published, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ingraft.cli.format import Format

if TYPE_CHECKING:
    from ingraft.steps import MergePlan


def merge(
    adapter: Annotated[
        str, typer.Argument(metavar="ADAPTER", help="Adapter: a directory or a Hub id.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Directory for the merged model.", show_default=False)
    ],
    base: Annotated[
        str | None, typer.Option(help="Base model: a directory or a Hub id. Default: what the adapter names.")
    ] = None,
    base_precision: Annotated[
        Literal["original", "dequantized"] | None,
        typer.Option(
            help="For an adapter trained over a quantised base (QLoRA): merge into the original weights, or into the "
            "dequantised ones that training saw.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Dtype of the merged weights; auto keeps the base's."),
    ] = "auto",
    layout: Annotated[
        Literal["portable", "legacy", "keep"],
        typer.Option(
            help="Small files: older names beside the newer ones, for servers that read the files themselves; in "
            "their place, for Sentence Transformers before 5.4; or as they are."
        ),
    ] = "portable",
    other_base: Annotated[
        bool, typer.Option("--other-base", help="Merge into other weights than those that the adapter was trained on.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    save_plan: Annotated[
        Path | None, typer.Option(help="Write the plan as JSON to this file.", show_default=False)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace OUTPUT, in one step, if it is not empty.")
    ] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Publish without the proof.")] = False,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="Sign OUTPUT with the private key in this PEM file, for `ingraft verify --key`.", show_default=False
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Allow code from the base model's repository to run.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Run base, base + adapter and merged model on texts before publishing, and write the whole proof to "
            "this file as an HTML page.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Threads. Default: the CPU's cores, at most 8.")] = None,
    format: Annotated[Format, typer.Option(help="How to print plan and result.")] = "human",
) -> None:
    """Merge ADAPTER into its base model and write the plain model to OUTPUT."""
    from ingraft.cli import show, show_merge
    from ingraft.pipeline import run_plan
    from ingraft.plan import plan_merge
    from ingraft.publish import check_output
    from ingraft.signing import private_key

    human = format == "human"
    if not dry_run:
        check_output(output, overwrite=overwrite)
    if report is not None:
        _check_report(report, output, "--no-verify" if no_verify else "--dry-run" if dry_run else "")
    if sign is not None:
        private_key(sign)
    plan = plan_merge(
        adapter,
        base,
        dtype=dtype,
        base_precision=base_precision,
        layout=layout,
        other_base=other_base,
        trust_remote_code=trust_remote_code,
    )
    _check_files(plan, output, sign, save_plan, report)
    if save_plan is not None:
        show.save_json(save_plan, plan.to_dict())
    if human:
        show_merge.plan(plan, output)
    if dry_run:
        if not human:
            show.json({"plan": plan.to_dict()})
        return
    with show.progress(human) as progress:
        result = run_plan(
            plan,
            output,
            overwrite=overwrite,
            verify=not no_verify,
            embeddings=report is not None,
            sign=sign,
            workers=workers,
            progress=progress,
        )
    if report is not None and result.report is not None:
        from ingraft.report import write_report

        write_report(report, result.report, plan, merged=output)
    if human:
        show_merge.result(result)
        if report is not None:
            show.line("report", str(report))
    else:
        show.json(show_merge.facts(result))


def _check_files(plan: MergePlan, output: Path, sign: Path | None, *files: Path | None) -> None:
    """Raise UnusableInput for a file that would replace an input, or lie in what is replaced."""
    from ingraft.publish import check_file

    inputs = (plan.adapter.root, plan.base.root, *([sign] if sign else []))
    for file in filter(None, files):
        check_file(file, inputs=inputs, model=output)


def _check_report(report: Path, output: Path, without: str) -> None:
    from ingraft.errors import UnusableInput
    from ingraft.report import check_report

    if without:
        raise UnusableInput(f"--report shows the proof, which {without} leaves out.", hint="Leave out one of them.")
    check_report(report, merged=output)
