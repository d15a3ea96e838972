"""From text to token windows: prepared shards with a manifest, and batches as a pure function of the manifest.

A run identifies its data by `Manifest.hash`. `find_data` and `prepare_data` turn a `DataSpec` (conf/data) into a
manifest. `open_data` turns a manifest's hash into `TokenData`, whose windows depend only on the manifest, the seed and
the index. Nothing here imports torch.
"""

from sweeper.data.manifest import Manifest, Shard
from sweeper.data.prefetch import Prefetch
from sweeper.data.prepare import find_data, prepare_data
from sweeper.data.spec import DataSpec, TokenizerSpec
from sweeper.data.task_pool import Progress
from sweeper.data.tokens import TokenData, open_data

__all__ = [
    "DataSpec",
    "Manifest",
    "Prefetch",
    "Progress",
    "Shard",
    "TokenData",
    "TokenizerSpec",
    "find_data",
    "open_data",
    "prepare_data",
]
