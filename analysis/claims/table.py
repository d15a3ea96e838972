"""The claims as data: how each is measured here and what has to be true for it to hold.

Every verdict is computed from records. A threshold that the paper does not give lies half-way between the value that is
claimed and the nearest value that the claim excludes.
"""

from analysis.claims import paper_residual_scaling
from analysis.claims.verdict import Claim, Finding
from analysis.records.result_sets import Records

CLAIMS = paper_residual_scaling.CLAIMS


def assess(records: Records) -> list[tuple[Claim, Finding]]:
    """The verdict of every claim on one place and preset."""
    return [(claim, claim.assess(records)) for claim in CLAIMS]
