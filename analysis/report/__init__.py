"""Every claim, figure and optimum in one page: `python -m analysis.report`."""
