"""wandb as a mirror of runs: a separate process copies run directories to wandb, and tables can be read back from it.

    client        the training side: starts the follower process and names the run to follow
    follower      the follower process: reads metrics.jsonl and logs it to wandb
    wandb_run     one wandb run, on the server or, if that fails, in a file
    offline       reads wandb's files
    wandb_api     reads a wandb server
    mirrored_run  one run as wandb has it, from either source
    tables        mirrored runs as the tables from which figures are drawn
    figures       logs figures to the entry of their sweep

The run directory remains the source of truth. The training imports only `client`, which does not import wandb.
"""
