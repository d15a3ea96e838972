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
from sweeper.data.tasks import TASKS, TaskData, make_task, task_of
from sweeper.data.tokens import TokenData, open_data

__all__ = [
    "TASKS",
    "DataSpec",
    "Manifest",
    "Prefetch",
    "Progress",
    "Shard",
    "TaskData",
    "TokenData",
    "TokenizerSpec",
    "find_data",
    "make_task",
    "open_data",
    "prepare_data",
    "task_of",
]
