"""Questions of this project, which neither paper answers, as claims that can hold or fail."""

from functools import partial

from analysis.claims import architectures, tasks, transfer
from analysis.claims.architectures import BOUNDARY, FLT, FLT_LINEAR, PLAIN_LINEAR
from analysis.claims.verdict import Claim, Source

SOURCE = Source(
    "Questions of this project",
    "",
    column="why it is asked",
    notes=(
        "At the same L and N, plain and FLT do the same FLOPs. Each architecture is judged at its own best rate. "
        "A collapsed run counts as diverged.",
    ),
)
_SAME = "every interval lies within ±½ octave, as for the claim on Figure 5b–d"

CLAIMS = (
    Claim(
        SOURCE,
        "ours-flt-rate",
        "FLT keeps its optimum rate over N with ε = 1",
        "2605.18797",
        "it scales no branch",
        "shifts of the optimum (fitted) from N = 1's at every N, in octaves",
        _SAME,
        partial(architectures.keeps_its_rate, stabiliser=FLT),
    ),
    Claim(
        SOURCE,
        "ours-linear-flt",
        "1/N reaches a lower loss than FLT at equal FLOPs",
        "both papers",
        "two ways to stabilise the loop, not compared yet",
        "best loss of FLT with ε = 1 minus that of plain with linear, at every N > 1",
        "every interval lies above zero",
        partial(architectures.beats, winner=PLAIN_LINEAR, losers=(FLT,)),
    ),
    Claim(
        SOURCE,
        "ours-flt-linear",
        "FLT with 1/N reaches a lower loss than FLT and than 1/N alone",
        "both papers",
        "their product, not measured yet",
        "best loss of each minus that of FLT with linear, at every N > 1",
        "every interval lies above zero",
        partial(architectures.beats, winner=FLT_LINEAR, losers=(FLT, PLAIN_LINEAR)),
    ),
    Claim(
        SOURCE,
        "ours-boundary",
        "The boundary norm does what 1/N does",
        "2609.19107",
        "optimum rates broadly similar over N = 2, 4, 8 without 1/N (as reported second-hand)",
        "shifts of its optimum (fitted) from N = 1's, and its best loss minus that of plain with linear at every N > 1",
        "every interval of a shift lies within ±½ octave, every interval of a loss below 0.0125 nats: half of what "
        "separates sqrt from linear in Figure 5",
        partial(architectures.does_the_same, stabiliser=BOUNDARY, model=PLAIN_LINEAR),
    ),
    Claim(
        SOURCE,
        "ours-no-decay",
        "Without weight decay the optimum under linear is nearly the same for every N and L",
        "2510.19093",
        "weight decay, not the parameterization, may make rates transfer",
        "as the claim on Figure 5b–d, in the sweep with optimizer.weight_decay=0",
        _SAME,
        transfer.transfers_without_decay,
    ),
    Claim(
        SOURCE,
        "tasks-loops",
        "On a task, more loops raise accuracy at fixed parameters",
        "2502.17416",
        "looped models solve what needs depth",
        "accuracy at N = 8 minus that at N = 1 under linear at L_ref, each at its best rate by loss; paired over seeds",
        "its interval lies above zero",
        tasks.loops_raise_accuracy,
    ),
    Claim(
        SOURCE,
        "tasks-scaling",
        "On a task, 1/N is more accurate than FLT at 12 loops",
        "both papers",
        "two ways to stabilise the loop, where loops pay",
        "accuracy of plain with linear minus that of FLT at N = 12, each at its best rate by loss; paired over seeds",
        "its interval lies above zero",
        partial(tasks.scaling_beats, scaled=PLAIN_LINEAR, other=FLT),
    ),
    Claim(
        SOURCE,
        "tasks-test-time",
        "On a task, loops at test time beyond training help on harder questions than were trained",
        "recurrent-pretraining",
        "more loops at test time as a way to think longer",
        "accuracy on levels beyond training at N_test = 16 minus that at 8, of models with N = 8 under linear",
        "its interval lies above zero",
        tasks.more_test_loops_help,
    ),
)
