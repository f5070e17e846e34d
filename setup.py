"""The kernels in C; all else is in pyproject.toml. Without a compiler numpy does the same, more slowly."""

from setuptools import Extension, setup

_FOLDER = "src/ingraft/kernels"

setup(
    ext_modules=[
        Extension(
            f"ingraft.kernels.{name}",
            [f"{_FOLDER}/{name}.c"],
            depends=[f"{_FOLDER}/arrays.h"],
            extra_compile_args=["-O3"],
            optional=True,
        )
        for name in ("_bfloat16", "_sha256")
    ]
)
