"""What a run does in its process: a training, a probe or a draw of the toy model."""
