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
