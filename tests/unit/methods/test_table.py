"""The table as a whole: complete, importable without torch, and in step with the formula files."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from peft.utils.peft_types import PeftType

from ingraft.errors import UnusableInput
from ingraft.methods.method import Method
from ingraft.methods.table import METHODS, formula, method_for

STREAMED = [method for method in METHODS if method.route == "streamed"]


def name_of(method: Method) -> str:
    return f"{method.peft_type}-{method.name}"


def test_every_peft_type_has_a_row_and_every_row_a_peft_type() -> None:
    assert {method.peft_type for method in METHODS} == {member.value for member in PeftType}


def test_names_are_unique() -> None:
    names = [method.name for method in METHODS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("peft_type", sorted({method.peft_type for method in METHODS}))
def test_the_last_row_of_a_type_applies_to_any_config(peft_type: str) -> None:
    """So that every config of a known type has a row."""
    last = [method for method in METHODS if method.peft_type == peft_type][-1]
    assert last.applies({"peft_type": peft_type})
    assert method_for({"peft_type": peft_type}).peft_type == peft_type


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_rows_say_what_people_read(method: Method) -> None:
    assert method.source
    if method.route != "refused":
        assert method.change
    if method.route != "streamed":
        assert method.reason.endswith(".")
        assert method.reason[0].isupper()


@pytest.mark.parametrize("method", [method for method in METHODS if method.route == "refused"], ids=name_of)
def test_refusals_say_what_to_do_instead(method: Method) -> None:
    assert any(word in method.reason for word in ("serve it", "merge", "convert", "train ", "set ", "save ", "load "))


@pytest.mark.parametrize("method", STREAMED, ids=name_of)
def test_formulas_take_what_the_row_reads(method: Method) -> None:
    """Positional parameters are tensors (or the base, or the bias); each is one that the row finds in the file."""
    assert method.formula or method.bias or method.replaces
    known = {*method.tensors.values(), *method.shared.values()}
    formulas = ((method.formula, "base"), (method.embedding, "base"), (method.expert, "base"), (method.bias, "bias"))
    for reference, given in formulas:
        if reference:
            parameters = inspect.signature(formula(reference)).parameters.values()
            tensors = {p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY}
            assert tensors - {given} <= known
            # a tensor that a module may lack may be left out of the call; an embedding has others than a linear layer
            needed = {p.name for p in parameters if p.default is inspect.Parameter.empty} & method.optional
            assert not needed - method.bias_tensors or (given == "base" and method.embedding)
    assert method.optional <= set(method.tensors.values())
    assert method.bias_tensors <= set(method.tensors.values())


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_formulas_are_named_by_streamed_rows_only(method: Method) -> None:
    assert method.route == "streamed" or not (method.formula or method.bias)


def test_the_first_row_that_applies_is_taken() -> None:
    assert method_for({"peft_type": "PVERA", "sample_at_inference": True}).route == "refused"
    assert method_for({"peft_type": "PVERA", "sample_at_inference": False}).route == "streamed"
    assert method_for({"peft_type": "MISS", "init_weights": "bat"}).formula == "miss:miss_bat"
    assert method_for({"peft_type": "MISS", "init_weights": True}).formula == "miss:miss"
    assert method_for({"peft_type": "WAVEFT", "wavelet_family": "coif4"}).route == "in-memory"
    assert method_for({"peft_type": "WAVEFT", "wavelet_family": "coif4", "use_idwt": False}).route == "streamed"
    assert method_for({"peft_type": "PEANUT", "depth": 1}).route == "in-memory"


@pytest.mark.parametrize(("peft_type", "near"), [("LoRa", "LORA"), ("VERRA", "VERA"), (None, "not known")])
def test_unknown_types_are_unusable(peft_type: str | None, near: str) -> None:
    with pytest.raises(UnusableInput, match=near):
        method_for({"peft_type": peft_type})


def test_the_table_imports_no_torch() -> None:
    code = (
        "import sys; import ingraft.methods.table; print([m for m in ('torch', 'peft', 'numpy') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
