"""wandb as a mirror of runs: fed from their directories by a process of its own, and read back into the same tables.

    settings   where runs are mirrored to
    mirror     the training side: starts the mirror process, tells it which run to follow, never waits for it for long
    process    the mirror process: follows metrics.jsonl
    session    one wandb run, on the server or, where that fails, in a file
    offline    reads those files
    server     reads a server
    tables     what either holds, as the tables that figures are drawn from

The run directory stays the truth. Nothing here is imported by what trains, bar `mirror`, which does not import wandb.
"""
