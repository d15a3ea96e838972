"""`python -m analysis.report`."""

from analysis.plotting import script
from analysis.report.page import main

script.leave(main())
