"""The claims of "On the Residual Scaling of Looped Transformers" (arXiv 2606.18524), a row each."""

from functools import partial

from analysis.claims import probe, stream, transfer
from analysis.claims.verdict import Claim

_BOUNDED = "the exponent's interval lies within ±0.25, nearer to 0 than to ±½"
_GROWTH = "largest exponent of R ∝ {} over optimizer steps 1–10, mean over seeds"
_COSINES = "smallest and largest off-diagonal cosine of block-level increments after 10 steps, all seeds"
_UPDATE = "exponent of the RMS change of h_N by the first optimizer step over N = 16…64, mean over seeds"
_READOUT = "increment cosines after training at N = 1's optimum (grid), linear, every depth; mean over seeds"

CLAIMS = (
    Claim(
        "params",
        "Parameter counts",
        "Table 2",
        "183.5M, 268.4M, 438.3M",
        "counted from the paper's shape at L = 12, 24, 48; needs no run",
        "equal to a tenth of a million",
        probe.parameter_counts,
    ),
    Claim(
        "fig2-deep",
        "1/√L keeps R bounded in depth for non-shared stacks",
        "Figure 2b",
        "flat in L",
        _GROWTH.format("L^p"),
        _BOUNDED,
        partial(probe.stays_bounded, panel="fig2b", rule="sqrt"),
    ),
    Claim(
        "fig2-loop-sqrt",
        "1/√N does not bound R for looped stacks",
        "Figure 2e",
        "grows rapidly with N",
        _GROWTH.format("N^p"),
        "the exponent's interval lies above 0.25, nearer to ½ than to 0",
        partial(probe.grows, panel="fig2e", rule="sqrt"),
    ),
    Claim(
        "fig2-loop-linear",
        "1/N keeps R bounded, about the same for every N",
        "Figure 2f",
        "flat in N",
        _GROWTH.format("N^p"),
        _BOUNDED,
        partial(probe.stays_bounded, panel="fig2f", rule="linear"),
    ),
    Claim(
        "fig3-deep",
        "Increments of non-shared blocks are uncorrelated",
        "Figure 3a",
        "in [−0.037, 0.034]",
        _COSINES,
        "all within ±2.8/√d, which is ±0.1 at the paper's width; unrelated vectors have 1/√d",
        partial(probe.increments_unrelated, panel="fig3a"),
    ),
    Claim(
        "fig3-loop",
        "Increments of a looped block are positively aligned",
        "Figure 3b",
        "in [0.027, 0.995]",
        _COSINES,
        "all above 0",
        partial(probe.increments_align, panel="fig3b"),
    ),
    Claim(
        "fig4-none",
        "Unscaled, the one-step update grows like N",
        "Figure 4",
        "∝ N",
        _UPDATE,
        "its interval lies within 0.75…1.25",
        partial(probe.update_grows, panel="fig2d", rule="none"),
    ),
    Claim(
        "fig4-sqrt",
        "Under 1/√N the one-step update grows like √N",
        "Figure 4",
        "∝ √N",
        _UPDATE,
        "its interval lies within 0.25…0.75",
        partial(probe.update_grows, panel="fig2e", rule="sqrt"),
    ),
    Claim(
        "fig4-linear",
        "Under 1/N the one-step update stays within a small range and saturates",
        "Figures 4, 9",
        "within ~4× over N = 1…64, saturating near N = 32",
        "largest over smallest RMS change of h_N by the first optimizer step, and that of N = 64 over N = 32",
        "below 5.7×, nearer to 4× than to √N's 8×; the last doubling within ±19%, nearer to flat than to √2",
        partial(probe.update_saturates, panel="fig2f", rule="linear"),
    ),
    Claim(
        "fig5-shift",
        "Under sqrt at L_ref the optimum rate shifts with N",
        "Figure 5a",
        "shifts with N",
        "shift of the optimum (fitted) from N = 1's, in octaves",
        "the interval of some N lies beyond ±½ octave",
        transfer.sqrt_shifts,
    ),
    Claim(
        "fig5-transfer",
        "Under linear the optimum base rate is nearly the same for every N and L",
        "Figure 5b–d",
        "nearly the same",
        "shifts of the optima (fitted) from N = 1's at every depth, and from L_ref's at every N, in octaves",
        "every interval lies within ±½ octave, the step of the paper's grid",
        transfer.linear_transfers,
    ),
    Claim(
        "fig5-gain",
        "At N = 8 and L_ref, linear reaches a lower loss than sqrt",
        "Figure 5a, b",
        "0.025 nats",
        "loss at the optimum (grid) under sqrt minus that under linear",
        "its interval lies above zero",
        transfer.linear_gains,
    ),
    Claim(
        "fig5-diverge",
        "At 4 L_ref and N = 8, base rates above 2e-3 diverge",
        "Figure 5d",
        "diverges above 2e-3 = 1.6 × N = 1's rate",
        "runs above 1.6 times N = 1's optimum (grid) at L_ref",
        "all of them diverge",
        transfer.deep_diverges,
    ),
    Claim(
        "fig6",
        "At N = 8 early and middle increments stay correlated, the last step's do not",
        "Figure 6",
        "mostly in 0.3…0.6; last step near 0 or negative",
        _READOUT,
        "most pairs without the last step in 0.3…0.6, those with it below 0.15 on average, at every depth",
        stream.increments_agree,
    ),
    Claim(
        "fig7",
        "The final norm is about the same for every N within one L",
        "Figure 7",
        "about the same",
        "largest ratio of final residual norms over N = 2, 4, 8 within a depth, at N = 1's optimum (grid), linear",
        "its interval lies below √2, nearer to equal than to √N growth",
        stream.norms_converge,
    ),
    Claim(
        "fig8",
        "At N = 4 the same pattern, last-step pairs weaker, most at L_ref",
        "Figure 8",
        "last-step pairs weaker, most at L = 12",
        _READOUT,
        "early and middle pairs positive and above the last step's at every depth, these lowest at L_ref",
        stream.last_step_weakest,
    ),
)
