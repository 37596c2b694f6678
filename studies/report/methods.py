"""How a report came to its answers, for its section on methods."""

from __future__ import annotations

from studies.analysis.choice import SEPARATED

METHODS = (
    "A run spends C = 3 × forward × batch × steps nominal training FLOPs (a multiply-add counts as two). Unless a note "
    "says otherwise, all runs have the same batch size and number of steps, and forward FLOPs per image are equal "
    "within 2%, so that C is the same for all. The learning rate warms up linearly, stays "
    "constant and falls by 1 − √ over the last part of every branch; branches at fractions of C start from one "
    "trunk. The optimiser is AdamW for all.",
    "The primary number is the test error of the branch with the smallest validation error, the same rule for "
    "everyone; the branch at exactly C is shown beside it. Test images choose nothing.",
    "Training subsets are nested and stratified; subset and order seeds are shared by all arms of a replicate, "
    "which makes the comparison of two arms a paired one. Lines are geometric means over replicates, bands 95% "
    "t-intervals of the mean log error, dots single runs. An error of zero enters logarithms as half an error.",
    "Two curves are said to cross only if each arm is significantly better at some size; that none crosses is "
    "said only with one-sided evidence at every size; otherwise the question is not resolved. The place of the "
    "crossover is where the mean log errors, interpolated in log N, are equal. Its interval is a confidence set, by "
    "inversion of the test: all sizes at which the paired difference is not significant. Variances are delete-one "
    "jackknives over replicates, a replicate being its whole row, and, where all replicates share their test images, "
    "over 20 blocks of these as well. Pairs that were not declared are corrected over one another by Holm.",
    "The data multiplier at an error is the ratio of the sizes at which the two interpolated mean curves first reach "
    "it, with a jackknife-t interval of its logarithm. The probability of being best comes from Student's t on paired "
    f"log errors under a flat prior; below {SEPARATED:.2g} nothing is called best. A difference at one size is "
    "significant where the p-value of a paired t-test, corrected by Holm over the sizes, is at most .05.",
    "Forms are fitted to single runs with Huber's loss on log errors, without points above 0.8 × chance unless the "
    "form knows chance; the form is chosen by extrapolation to the two largest sizes where there are enough sizes, "
    "else it is a power law with a floor. Fits serve floors only: the crossover never rests on them, and a "
    "disagreement is said.",
)
