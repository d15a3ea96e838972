"""Trains a run as one of two ranks: python -m tests.sweeper.training.one_of_two_ranks RANK RENDEZVOUS RUN DATA."""

import sys
from pathlib import Path

import torch

from sweeper.data import open_data
from sweeper.records.run_dir import RunDir
from sweeper.run.stop import StopFlag
from sweeper.training.distributed import RankInfo
from sweeper.training.gradients import FlatGradients
from sweeper.training.trainer import Trainer

rank, rendezvous, run, data_root = sys.argv[1:]
torch.set_num_threads(1)
rundir = RunDir(Path(run))
config, execution = rundir.load()
ranks = RankInfo(int(rank), 2, rendezvous_file=rendezvous).join("cpu", StopFlag())
trainer = Trainer(rundir, config, execution, open_data(config.data, Path(data_root)), ranks)
assert isinstance(trainer.gradients, FlatGradients)
trainer.run(StopFlag(), lambda progress: None)
ranks.leave()
left = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
assert not any("gloo" in name for name in left), left  # one that outlives its group may abort the process at its end
