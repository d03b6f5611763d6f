"""series_attention.py SERIES.csv FOLDER [ROWS] - a table of series as attention: an attention smoother that predicts the
next value of each series from the hours that looked alike.

One head for each numeric column. Key t is the window of the last 24 values, less its mean and over its deviation; the
query is the same window, the value is the next value on that scale. Writes q.npy, k.npy, v.npy for pith:

    python3 examples/series_attention.py ETTh1.csv series
    pith sparsity --keys series/k.npy --queries series/q.npy --values series/v.npy --causal
"""
import csv
import os
import sys

import numpy as np

WINDOW = 24

file, folder = sys.argv[1], sys.argv[2]
rows = int(sys.argv[3]) if len(sys.argv) > 3 else 8192
with open(file) as opened:
    table = list(csv.reader(opened))[1:]
series = np.array([row[1:] for row in table[: rows + WINDOW]], float).T

windows = np.lib.stride_tricks.sliding_window_view(series[:, :-1], WINDOW, axis=1)
mean = windows.mean(2, keepdims=True)
deviation = windows.std(2, keepdims=True) + series.std(1)[:, None, None] / 20  # a flat day is no hour magnified
keys = (windows - mean) / deviation
values = (series[:, WINDOW:, None] - mean) / deviation

os.makedirs(folder, exist_ok=True)
for name, array in (("k", keys), ("q", keys), ("v", values)):
    np.save(os.path.join(folder, name + ".npy"), np.ascontiguousarray(array[None], np.float32))
