"""The claims of "Simply Stabilizing the Loop via Fully Looped Transformer" (arXiv 2605.18797), a row each."""

from functools import partial

from analysis.claims import architectures, diagnostics
from analysis.claims.architectures import FLT, FLT_RES, LT, LT_I, LT_IA
from analysis.claims.verdict import Claim, Source
from analysis.stats.comparison import Stabiliser

SOURCE = Source(
    "Simply Stabilizing the Loop via Fully Looped Transformer",
    "https://arxiv.org/abs/2605.18797",
    notes=(
        "A run has collapsed if its final loss is not finite, or above diverged_above, or not more than 0.05 nats "
        "below the unigram entropy of the validation tokens. Each architecture is judged at its own best rate. So it "
        "collapses at N only if no rate of the grid trains it with every seed. Here ε = 1.",
        "The paper's models have 127M and 318M parameters. Its numbers are as reported second-hand.",
    ),
)
_LEARNED = "nats learned at N = 12: unigram entropy minus final loss, at the best rate, mean over seeds"
_AT_12 = "318M: collapses at 12 loops (as reported second-hand)"


def _collapses(stabiliser: Stabiliser, paper: str) -> Claim:
    name = stabiliser.architecture
    return Claim(
        SOURCE,
        f"flt-collapse-{name}",
        f"{name} collapses at 12 loops",
        "Abstract",
        paper,
        _LEARNED,
        "its interval lies below 0.05",
        partial(architectures.collapses, stabiliser=stabiliser),
    )


CLAIMS = (
    _collapses(LT, "318M: collapses at 9 and at 12 loops; 127M: not at 9 (as reported second-hand)"),
    _collapses(LT_I, _AT_12),
    _collapses(LT_IA, _AT_12),
    _collapses(FLT_RES, _AT_12),
    Claim(
        SOURCE,
        "flt-trains",
        "FLT trains stably at 12 loops",
        "Abstract",
        "stable up to 12 loops, where the others collapse",
        _LEARNED,
        "its interval lies above 0.05",
        partial(architectures.trains, stabiliser=FLT),
    ),
    Claim(
        SOURCE,
        "flt-better",
        "Where LT does not collapse, FLT is better",
        "Abstract",
        "up to 13.2% on the downstream average; 318M at N = 6: 41.3 against 36.5 (as reported second-hand)",
        "best validation loss of LT minus that of FLT at every N > 1 at which LT does not collapse",
        "every interval lies above zero",
        partial(architectures.better_where_it_trains, better=FLT, other=LT),
    ),
    Claim(
        SOURCE,
        "flt-improves",
        "FLT alone improves with N",
        "Experiments",
        "318M: the only one whose average rises, 41.3 at N = 6, 41.72 at N = 9 (as reported second-hand)",
        "best loss at N = 1 minus that at the largest N, of FLT, LT, LT_i, LT_ia and FLT_res",
        "the interval of FLT lies above zero, those of all others below, or they collapse",
        partial(architectures.alone_improves, one=FLT, others=(LT, LT_I, LT_IA, FLT_RES)),
    ),
    Claim(
        SOURCE,
        "flt-norm-loops",
        "The residual norm explodes over loops under LT, and stays under FLT",
        "Abstract",
        "residual explosion, a source of instability",
        "norm after loop 12 over that after loop 1, in the last tenth of the recorded steps (the first 2,000), N = 12",
        "the interval of LT lies above √10, that of FLT below: half-way, in decades, from no growth to tenfold growth, "
        "which counts as an explosion here",
        diagnostics.norm_explodes_over_loops,
    ),
    Claim(
        SOURCE,
        "flt-norm-steps",
        "The residual norm explodes over training under LT, and stays under FLT",
        "Abstract",
        "residual explosion, a source of instability",
        "norm after loop 12, in the last tenth of the recorded steps (the first 2,000) over that at the first, N = 12",
        "the interval of LT lies above √10, that of FLT below, as over loops",
        diagnostics.norm_explodes_over_steps,
    ),
    Claim(
        SOURCE,
        "flt-oscillation",
        "The gradient oscillates less under FLT than under LT",
        "Abstract",
        "gradient oscillation, a source of instability",
        "standard deviation of the gradient norm before clipping, over the recorded steps between warmup and decay: "
        "that of LT over that of FLT at N = 6, 9, 12, seeds paired",
        "every interval lies above 1",
        diagnostics.gradient_oscillates_less,
    ),
    Claim(
        SOURCE,
        "flt-test-loops",
        "FLT keeps its loss with other loop counts at test time",
        "Abstract",
        "can run with other loop counts than in training",
        "share of the learned nats that a model trained at N > 1 keeps with each other loop count, smallest shown",
        "every interval lies above ½, half-way between a loss that is kept and a collapse",
        partial(diagnostics.keeps_its_loss, stabiliser=FLT),
    ),
)
