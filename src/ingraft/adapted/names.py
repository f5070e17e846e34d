"""Names in the adapter (of the class that it was trained with) → names in the model that is loaded now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ingraft.adapted.keys import AdapterKeys
from ingraft.adapter import Adapter
from ingraft.base_model import BaseModel
from ingraft.errors import UnusableInput, nearest
from ingraft.naming import Names, find_names
from ingraft.naming.meta import RuntimeModel, runtime_model
from ingraft.naming.names import Region

Change = tuple[str, str]  # (prefix to take off, prefix to put on)


@dataclass(frozen=True)
class Placement:
    """A part of a live parameter, and the part of a stored tensor that its numbers come from."""

    parameter: str
    region: Region


@dataclass(frozen=True)
class LiveNames:
    """Where everything in the adapter belongs.

    modules    adapted module → module of the live model
    saved      parameter held whole → parameter of the live model
    displaced  adapted modules that the live model splits or stacks → where their stored weight went
    absent     modules and parameters of a head that the live model does not have
    """

    modules: Mapping[str, str]
    saved: Mapping[str, str]
    displaced: Mapping[str, tuple[Placement, ...]]
    absent: tuple[str, ...]


def live_names(
    adapter: Adapter, keys: AdapterKeys, base: BaseModel, model: Any, *, trust_remote_code: bool
) -> LiveNames:
    """Find every adapted module and saved parameter in `model`, the live transformer.

    Raises UnusableInput for what neither the live model nor another class for the same weights has.
    """
    known_modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    wanted = list(dict.fromkeys([*keys.modules, *keys.tokens]))
    change = _common_change(wanted or [name.rpartition(".")[0] for name in keys.saved], known_modules)
    modules = _renamed(wanted, change, known_modules)
    saved = _renamed(keys.saved, change, [*parameters, *(name for name, _ in model.named_buffers())])
    lost = [module for module in wanted if module not in modules]
    lost_parameters = [parameter for parameter in keys.saved if parameter not in saved]
    if not lost and not lost_parameters:
        return LiveNames(modules, saved, {}, ())
    through = _ThroughFile.open(lost, lost_parameters, base, trust_remote_code)
    displaced: dict[str, tuple[Placement, ...]] = {}
    absent: list[str] = []
    for module in lost:
        placements = through.placements(f"{module}.weight", parameters)
        if placements is None:
            absent.append(module)
        elif not placements:
            raise _fits_nothing(adapter, module, known_modules, base)
        elif _is_whole(placements, base):
            modules[module] = placements[0].parameter.removesuffix(".weight")
        else:
            displaced[module] = placements
    for parameter in lost_parameters:
        placements = through.placements(parameter, parameters)
        if placements and _is_whole(placements, base):
            saved[parameter] = placements[0].parameter
        elif placements:
            raise UnusableInput(
                f"{adapter.weights}: {keys.saved[parameter].key} belongs to parameters that the model loads in parts, "
                f"such as {placements[0].parameter}; that is not supported."
            )
        elif (
            placements is None
            or through.has_head(parameter)
            or adapter.config.saves_whole(parameter.rpartition(".")[0])
        ):
            absent.append(parameter)
        else:
            raise _fits_nothing(adapter, keys.saved[parameter].key, parameters, base)
    return LiveNames(modules, saved, displaced, tuple(absent))


def _common_change(names: Sequence[str], known: Iterable[str]) -> Change:
    """The one change of prefix under which most of `names` are known; none where that already fits."""
    exact, ends = set(known), _by_ending(known)
    count: dict[Change, int] = {}
    for name in names:
        changes: set[Change] = {("", "")} if name in exact else set()
        changes |= {("", prefix) for prefix in ends.get(name, ())}
        changes |= {(prefix, "") for prefix, rest in _splits(name) if rest in exact}
        for change in changes:
            count[change] = count.get(change, 0) + 1
    best = max(count.values(), default=0)
    found = [change for change, hits in count.items() if hits == best]
    return ("", "") if ("", "") in found or len(found) != 1 else found[0]


def _by_ending(known: Iterable[str]) -> dict[str, set[str]]:
    ends: dict[str, set[str]] = {}
    for name in known:
        for prefix, rest in _splits(name):
            ends.setdefault(rest, set()).add(prefix)
    return ends


def _splits(name: str) -> Iterable[tuple[str, str]]:
    parts = name.split(".")
    for count in range(1, len(parts)):
        yield ".".join(parts[:count]) + ".", ".".join(parts[count:])


def _renamed(names: Iterable[str], change: Change, known: Iterable[str]) -> dict[str, str]:
    off, on = change
    exact = set(known)
    found = {}
    for name in names:
        changed = on + name.removeprefix(off) if name.startswith(off) else None
        if changed in exact:
            found[name] = changed
        elif name in exact:
            found[name] = name
    return found


@dataclass(frozen=True)
class _ThroughFile:
    """From an adapter's name to the stored tensor that it means, and from there to the live model's parameters."""

    names: Names
    runtime: RuntimeModel
    base: BaseModel
    trust_remote_code: bool

    @classmethod
    def open(
        cls, modules: Sequence[str], parameters: Sequence[str], base: BaseModel, trust_remote_code: bool
    ) -> _ThroughFile:
        weights = [f"{module}.weight" for module in modules]
        names = find_names(weights, parameters, base, trust_remote_code=trust_remote_code)
        return cls(names, runtime_model(base, trust_remote_code=trust_remote_code), base, trust_remote_code)

    def has_head(self, parameter: str) -> bool:
        """Is it stored, or a parameter of the class that the base was saved with?"""
        return parameter in self.names.regions or parameter in self.head().shapes

    def head(self) -> RuntimeModel:
        return runtime_model(self.base, trust_remote_code=self.trust_remote_code, head=True)

    def placements(self, parameter: str, live: Sequence[str]) -> tuple[Placement, ...] | None:
        """Live parameters made of the same stored numbers; None for one that only a head of another class has."""
        if self.names.running.get(parameter, parameter) in (*self.names.tied, *self._tied_in_head()):
            return None
        stored = {region.tensor for region in self.names.regions.get(parameter, ())}
        known = set(live)
        found = tuple(
            Placement(name, region)
            for name, regions in self.runtime.regions.items()
            if name in known
            for region in regions
            if region.tensor in stored
        )
        return found if found or not stored else None

    def _tied_in_head(self) -> Iterable[str]:
        return self.names.runtime.tied if self.names.runtime is not None else ()


def _is_whole(placements: Sequence[Placement], base: BaseModel) -> bool:
    """Is it one live parameter that holds the whole stored tensor as it is?"""
    if len(placements) != 1 or placements[0].region.expert is not None or placements[0].region.transposed:
        return False
    region = placements[0].region
    return region.elements == (0, base.checkpoint.tensors[region.tensor].elements)


def _module_of(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _fits_nothing(adapter: Adapter, name: str, known: Sequence[str], base: BaseModel) -> UnusableInput:
    return UnusableInput(
        f"{adapter.name}: {name} fits nothing in {base.name}{nearest(name, known)}.",
        hint=f"Pass the right base with --base, or run: ingraft inspect {adapter.name}",
    )
