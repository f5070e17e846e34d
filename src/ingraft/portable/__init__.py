"""Small files of a model as current and older readers take them, without a change in what current ones compute.

What Sentence Transformers 5.4 and transformers 5 write is refused by older releases and by servers that read the files
themselves, or worse, taken with another meaning: a rotary base of 10,000 where the file's new key says 1,000,000.
Everything here adds the older names beside the newer ones; `legacy` puts them in their place, for releases that refuse
a name that they do not know.
"""

from ingraft.portable.files import ModelFiles
from ingraft.portable.modules import NEW_TYPES, POOLING_FLAGS, module_config, pooling_modes
from ingraft.portable.rewrite import portable_files, with_portable

__all__ = [
    "NEW_TYPES",
    "POOLING_FLAGS",
    "ModelFiles",
    "module_config",
    "pooling_modes",
    "portable_files",
    "with_portable",
]
