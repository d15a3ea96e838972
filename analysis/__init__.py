"""Records in, figures and verdicts out. Never imports torch: figures redraw where nothing trains."""
