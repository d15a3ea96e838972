"""The claims as data: how each is measured here and what has to be true for it to hold.

Every verdict is computed from records. A threshold that the paper does not give lies half-way between the value that is
claimed and the nearest value that the claim excludes.
"""

from itertools import groupby

from analysis.claims import our_questions, paper_fully_looped, paper_residual_scaling
from analysis.claims.verdict import Claim, Finding, Source
from analysis.records.result_sets import Records

CLAIMS = (*paper_residual_scaling.CLAIMS, *paper_fully_looped.CLAIMS, *our_questions.CLAIMS)


def by_source() -> list[tuple[Source, list[Claim]]]:
    """The claims of each source, in order."""
    return [(source, list(claims)) for source, claims in groupby(CLAIMS, lambda claim: claim.source)]


def assess(records: Records) -> list[tuple[Claim, Finding]]:
    """The verdict of every claim on one place and preset."""
    return [(claim, claim.assess(records)) for claim in CLAIMS]
