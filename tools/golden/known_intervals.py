"""Known answers of src/stats, from scipy and numpy: python tools/golden/known_intervals.py"""

import numpy as np
from scipy import stats

for p, df in [(0.975, 1), (0.975, 9), (0.95, 29), (0.995, 5), (0.6, 3)]:
    print(f"t.ppf({p}, {df}) = {stats.t.ppf(p, df)!r}")

d = np.array([0.031, 0.018, 0.044, 0.026, 0.009, 0.037, 0.022, 0.051, 0.015, 0.029])
print("mean", d.mean(), "t interval", stats.t.interval(0.95, len(d) - 1, d.mean(), stats.sem(d)))
print("quantiles", [(p, float(np.quantile(d, p))) for p in (0.0, 0.25, 0.9, 1.0)])

walsh = np.sort([(d[i] + d[j]) / 2 for i in range(len(d)) for j in range(i, len(d))])
above = [x for x in walsh if stats.wilcoxon(d - x - 1e-12, mode="exact").pvalue > 0.05]
below = [x for x in walsh if stats.wilcoxon(d - x + 1e-12, mode="exact").pvalue > 0.05]
print("hodges-lehmann", np.median(walsh), "95 % interval by inverting the test", min(above), max(below))

documents = [[0.02, 0.03], [0.01, -0.01, 0.0], [0.05, 0.04], [0.0, 0.01, 0.02, 0.01]]
n = sum(map(len, documents))
theta = sum(map(sum, documents)) / n
g = len(documents)
se = np.sqrt(g / (g - 1) * sum((sum(doc) - theta * len(doc)) ** 2 for doc in documents)) / n
iid = np.sqrt(n / (n - 1) * sum((x - theta) ** 2 for doc in documents for x in doc)) / n
print("clusters", theta, se, iid, "design effect", (se / iid) ** 2)

for shift in (0.0, 0.0201, 0.0301):
    p = stats.wilcoxon(d - shift, alternative="greater", mode="exact").pvalue
    print(f"signed rank, D > {shift}: p = {p!r}")


def symmetry_evidence(x, past_of):
    """ln E of both mixtures and of their mean after the last value; formulas of src/stats/symmetry.rs."""
    fisher, positive = np.zeros(8), 0
    steps = np.array([0.15, 0.25, 0.4, 0.65, 1.0, 1.6, 2.5, 4.0])
    shares = 0.5 + (np.arange(24) + 0.5) / 48
    for i, value in enumerate(x):
        past = past_of[:i]
        spread = ((past - past.mean()) ** 2).sum() if i else 0.0
        scale = np.sqrt((2 * 0.02**2 + spread) / (2 + max(i - 1, 0)))
        fisher += np.log1p(np.tanh(steps * value / scale))
        positive += value > 0
    sign = positive * np.log(2 * shares) + (len(x) - positive) * np.log(2 * (1 - shares))
    e_f, e_s = np.exp(fisher).mean(), np.exp(sign).mean()
    return np.log(e_f), np.log(e_s), np.log((e_f + e_s) / 2)


for centre, side in [(0.0, 1), (0.02, 1), (0.05, -1)]:
    print(f"symmetry evidence, centre {centre}, side {side}:", symmetry_evidence(side * (d - centre), d))

for lost, won in [(7, 1), (26, 18), (5, 5), (0, 0)]:
    n, least = lost + won, min(lost, won)
    exact = min(1.0, 2 * stats.binom.cdf(least, n, 0.5))
    print(f"mcnemar lost {lost} won {won}: exact {exact!r} mid-p {2 * stats.binom.cdf(least - 1, n, 0.5) + stats.binom.pmf(least, n, 0.5)!r}")

for n, p, confidence in [(10, 0.5, 0.95), (299, 0.99, 0.9), (298, 0.99, 0.9), (29, 0.9, 0.9), (28, 0.9, 0.9), (200, 0.9, 0.95)]:
    tail = (1 - confidence) / 2
    low = max((l for l in range(1, n + 1) if stats.binom.cdf(l - 1, n, p) <= tail), default=None)
    high = min((u for u in range(1, n + 1) if stats.binom.sf(u - 1, n, p) <= tail), default=None)
    print(f"ranks around quantile {p} of {n} at {confidence}: {low} {high}")

for right, n in [(0, 40), (3, 40), (40, 40)]:
    low = 0.0 if right == 0 else stats.beta.ppf(0.025, right, n - right + 1)
    high = 1.0 if right == n else stats.beta.ppf(0.975, right + 1, n - right)
    print(f"clopper-pearson {right} of {n}: {low!r} {high!r}")
