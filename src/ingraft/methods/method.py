"""What a row of the methods table says. Knows no torch, no files and no formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Route = Literal["streamed", "in-memory", "refused"]
LayerKind = Literal["linear", "conv1d", "conv", "embedding", "norm"]
Setting: TypeAlias = "float | int | bool | str | tuple[int, ...] | None"


@dataclass(frozen=True)
class Target:
    """One module that an adapter changes, as the formulas see it.

    `shape` is the base weight's in the orientation [out, in] (Conv1D transposed, convolutions flattened to
    [out, in·k·k], embeddings [V, d]), `dtype` what the base stores it in; `tensors` maps a formula's parameter to the
    shape of its tensor in the file.
    """

    module: str
    kind: LayerKind
    shape: tuple[int, int]
    tensors: Mapping[str, tuple[int, ...]]
    has_bias: bool = False
    dtype: str = "float32"


SettingsOf: TypeAlias = "Callable[[Mapping[str, Any], Target, Sequence[Target]], dict[str, Setting]]"


@dataclass(frozen=True)
class Method:
    """One PEFT method (or variant of one) and how it is merged.

    tensors   key suffix in the adapter file → parameter of the formula (`".lora_A.weight": "lora_A"`)
    optional  parameters that a module may lack
    shared    key (below `base_model.`) of tensors that all modules share → parameter of the formula
    replaces  key suffix of a tensor that simply takes a parameter's place → that parameter (`".w": "weight"`)
    formula   `"file:function"` below `ingraft.methods`; imported when a merge runs, not before
    embedding  the same for embeddings, and `expert` for one of a stack of experts, where it is another formula
    bias      the same for the layer's bias, where the method changes it: a function of the bias [out]
    bias_tensors  parameters of the bias formula alone; where a module has none of them its bias stays
    settings  (adapter config, target, all targets) → keyword arguments of formula and bias formula; raises
              UnusableInput when the config does not fit the tensors
    applies   tells a variant from its siblings by the adapter config; the first row that applies is taken
    """

    peft_type: str
    name: str
    route: Route
    change: str = ""
    source: str = ""
    reason: str = ""
    tensors: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    shared: Mapping[str, str] = field(default_factory=dict)
    replaces: Mapping[str, str] = field(default_factory=dict)
    kinds: frozenset[LayerKind] = frozenset({"linear", "conv1d"})
    formula: str = ""
    embedding: str = ""
    expert: str = ""
    bias: str = ""
    bias_tensors: frozenset[str] = frozenset()
    settings: SettingsOf = lambda config, target, targets: {}
    applies: Callable[[Mapping[str, Any]], bool] = lambda config: True
