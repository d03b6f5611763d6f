quietly sparsity --keys "$DATA/k4.npy" --queries "$DATA/q4.npy" --values "$DATA/v4.npy" --causal --json
cp .out report.json
check has report.json heads[].layer heads[].head heads[].sigma heads[].k50 heads[].k90 heads[].k99 heads[].k_predicted heads[].exponent heads[].exponent_interval heads[].participation heads[].sink_mass
check true report.json 'len(r["heads"]) == 8 and all(h["k50"] <= h["k90"] <= h["k99"] <= h["k999"] for h in r["heads"])'
check true report.json '[(h["layer"], h["head"], h["kv_head"]) for h in r["heads"]][5] == (1, 1, 0)'
# One head of unit vectors, in NumPy: what holds 90 % of the mass.
quietly sparsity --keys "$DATA/k.npy" --queries "$DATA/q.npy" --samples 0 --scale 2 --json
"$PYTHON" - <<'END'
import json
import os
import numpy as np
q, k = (np.load(os.path.join(os.environ["DATA"], name)).astype(float) for name in ("q.npy", "k.npy"))
weight = np.exp(2 * q @ k.T)
weight = -np.sort(-weight / weight.sum(1, keepdims=True))
entries = (np.cumsum(weight, 1) < .9).sum(1) + 1
head = json.load(open(".out"))["heads"][0]
print(abs(head["k90"] - entries.mean()) < 1e-9, abs(head["participation"] - (1 / (weight**2).sum(1)).mean()) < 1e-3)
END
# The same of a cache kept in f32, whose rows come back in their order; a summary of few points is no cache.
quietly sparsity --keys "$DATA/k4.npy" --queries "$DATA/q4.npy" --values "$DATA/v4.npy" --causal --json
cp .out arrays.json
quietly compress --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --engine exact --store f32 --budget even -o C.safetensors
quietly sparsity --summary C.safetensors --queries "$DATA/q4.npy" --causal --json
cp .out report.json
"$PYTHON" -c 'import json; print(json.load(open("arrays.json"))["heads"] == json.load(open("report.json"))["heads"])'
quietly compress --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --engine exact --store q8 --budget even -o C.safetensors
quietly sparsity --summary C.safetensors --queries "$DATA/q4.npy" --causal --json
"$PYTHON" -c 'import json; a, b = (json.load(open(f))["heads"] for f in ("arrays.json", ".out")); print(all(abs(x["k90"] - y["k90"]) <= .05 * x["k90"] for x, y in zip(a, b)))'
quietly compress --keys "$DATA/k.npy" --values "$DATA/v.npy" --points 50 --budget even -o S.safetensors
try sparsity --summary S.safetensors --queries "$DATA/q.npy"
try sparsity --summary S.safetensors --keys "$DATA/k.npy" --queries "$DATA/q.npy"
try sparsity --keys "$DATA/k.npy" --queries "$DATA/q.npy" --eps 0
try sparsity --keys "$DATA/k.npy" --queries "$DATA/q.npy" --eps 1
try sparsity --keys "$DATA/k.npy"
try sparsity experiment --keys "$DATA/k.npy"
try sparsity experiments
try sparsity --keys "$DATA/inf.npy" --queries "$DATA/q.npy"
try sparsity --keys "$DATA/k.npy" --queries "$DATA/wide_q.npy"
# The whole of a small table.
try sparsity --keys "$DATA/no_rows.npy" --queries "$DATA/new.npy"
