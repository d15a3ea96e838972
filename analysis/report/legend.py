"""What the verdicts mean, and what would decide an open claim."""

from analysis.claims.verdict import Finding, Verdict

MEANINGS = {
    Verdict.HOLDS: "The whole 95% interval lies where the claim is true.",
    Verdict.FAILS: (
        "The whole interval lies where the claim is not true. It fails for the models of this preset. A larger preset "
        "may say otherwise."
    ),
    Verdict.INCONCLUSIVE: "The interval spans both, or runs are missing. What would decide it stands beside it.",
    Verdict.NOT_MEASURED: "No runs of this kind are in these records. The figure's command makes them.",
}
DECIDED_BY = {  # by the class of reasons in `Finding.short`
    "1 seed": "two more seeds, such as grid.seeds=[0,1,2]; the runs of seed 0 stay",
    "points missing": "the missing runs: submit the sweep again",
    "runs diverged": "lower rates beside those that diverged, in grid.base_lr",
    "runs collapsed": "lower rates beside those that collapsed, or more seeds",
    "grid too short": "higher rates in grid.base_lr",
    "optimum at the edge": "rates beyond that edge in grid.base_lr",
    "interval too wide": "more seeds, or rates half an octave apart around the optimum",
}


def decided_by(finding: Finding) -> str:
    """What would decide an inconclusive claim; empty for another, or where that is not known."""
    return DECIDED_BY.get(finding.short.removeprefix("open: "), "")
