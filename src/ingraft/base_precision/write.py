"""Write the weights of a dequantised base, one layer at a time on each thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from ingraft.base_precision.arithmetic import DTYPES, PIECE, as_seen, unpacked
from ingraft.base_precision.dequantised import CopiedTensor, Dequantised
from ingraft.base_precision.layers import QuantisedLayer
from ingraft.checkpoint import TensorInfo, write_header
from ingraft.checkpoint.transfer import OpenFiles, copy_bytes, open_files, write_from
from ingraft.reading import read_into


def write_weights(base: Dequantised, *, workers: int, progress: Callable[[int], None]) -> None:
    """Write every weight file of the plain copy. `progress` is told bytes done."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with open_files() as files, ThreadPoolExecutor(workers, thread_name_prefix="ingraft") as pool:
            try:
                _write(base, files, pool, progress)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    finally:
        torch.set_num_threads(threads)


def _write(base: Dequantised, files: OpenFiles, pool: ThreadPoolExecutor, progress: Callable[[int], None]) -> None:
    copies = {copy.target.name: copy for shard in base.shards for copy in shard.tensors}

    def compute(layer: QuantisedLayer) -> None:
        parameter = _computed(files, copies, layer)
        for region in layer.regions:
            part = parameter[slice(*region.rows)]
            target = copies[region.tensor].target
            _store(files, target, region.elements[0], part)
            progress(part.numel() * DTYPES[target.dtype].itemsize)

    for shard in base.shards:
        forms = [(copy.target.name, copy.target.dtype, copy.target.shape) for copy in shard.tensors]
        with shard.path.open("wb") as file:
            file.truncate(shard.nbytes)
        write_from(files.get(shard.path, "r+b"), 0, write_header(forms, shard.metadata))
    for copy in copies.values():
        if not copy.computed:  # before the layers, which may write into parts of it
            _copy(files, copy)
            progress(copy.target.nbytes)
    for job in [pool.submit(compute, layer) for layer in base.layers]:
        job.result()


def _copy(files: OpenFiles, copy: CopiedTensor) -> None:
    source, target = copy.source, copy.target
    if source.dtype == target.dtype:
        copy_bytes(files.get(source.file), source.start, files.get(target.file, "r+b"), target.start, target.nbytes)
        return
    for start in range(0, source.elements, PIECE):
        stop = min(start + PIECE, source.elements)
        _store(files, target, start, _numbers(files, source, start, stop))


def _computed(files: OpenFiles, copies: Mapping[str, CopiedTensor], layer: QuantisedLayer) -> Tensor:
    """What the layer computes with, as its parameter has it in a plain checkpoint."""
    if layer.packed:
        seen = unpacked(layer, lambda info: _whole(files, info))
    else:
        rows, columns = layer.shape[::-1] if layer.transposed else layer.shape
        parameter = torch.empty(rows, columns, dtype=DTYPES[layer.loaded])
        for region in layer.regions:
            part = _numbers(files, copies[region.tensor].source, *region.elements)
            parameter[slice(*region.rows)] = part.reshape(-1, columns)
        seen = as_seen(parameter.T if layer.transposed else parameter, layer)
    return seen.T if layer.transposed else seen


def _numbers(files: OpenFiles, info: TensorInfo, start: int, stop: int) -> Tensor:
    """Elements [start, stop) of a tensor of floating-point numbers."""
    dtype = DTYPES[info.dtype]
    buffer = bytearray((stop - start) * dtype.itemsize)
    read_into(files.get(info.file), info.start + start * dtype.itemsize, buffer)
    return torch.frombuffer(buffer, dtype=dtype)


def _whole(files: OpenFiles, info: TensorInfo) -> Tensor:
    """Floating-point numbers, or the bytes of anything else and of packed weights."""
    if info.dtype == "F32":
        return _numbers(files, info, 0, info.elements)
    buffer = bytearray(info.nbytes)
    read_into(files.get(info.file), info.start, buffer)
    return torch.frombuffer(buffer, dtype=torch.uint8)


def _store(files: OpenFiles, target: TensorInfo, start: int, numbers: Tensor) -> None:
    dtype = DTYPES[target.dtype]
    flat: Any = numbers.to(dtype).contiguous().view(-1).view(torch.uint8).numpy()
    write_from(files.get(target.file, "r+b"), target.start + start * dtype.itemsize, flat)
