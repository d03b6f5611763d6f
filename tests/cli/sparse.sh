# Certified sparse attention: the bound holds, few keys are read where few matter, and misuse is refused.
"$PYTHON" - <<'PY'
import numpy as n
r = n.random.default_rng(5)
centres = 2 * r.standard_normal((16, 32))
k = n.repeat(centres, 128, 0) + .2 * r.standard_normal((2048, 32))
n.save("k.npy", k.astype("f4"))
n.save("v.npy", r.standard_normal((2048, 24)).astype("f4"))
n.save("q.npy", (2 * centres[r.integers(0, 16, 40)] + r.standard_normal((40, 32))).astype("f4"))
PY
quietly attend --keys k.npy --values v.npy --queries q.npy --eps 0.02 -o a.npy --json
cp .out report.json
check has report.json fraction_read certificate exact_queries mean_bound
check true report.json 'r["fraction_read"] < 1/3 and r["exact_queries"] == 0'
check true report.json 'r["certificate"]["kind"] == "tail" and r["certificate"]["certified"] and r["certificate"]["bound"] <= 0.02'
cat >errors.py <<'PY'
import sys, json, numpy as n
k, v, q, a = (n.load(f + ".npy").astype(float) for f in "kvqa")
z = q @ k.T / k.shape[1] ** .5
if len(sys.argv) > 1: z[n.arange(2048) > n.arange(2008, 2048)[:, None]] = -n.inf
w = n.exp(z - z.max(1, keepdims=True))
e = n.linalg.norm(w @ v / w.sum(1, keepdims=True) - a, axis=1)
print("within the bound" if e.max() <= json.load(open("report.json"))["certificate"]["bound"] else e)
PY
"$PYTHON" errors.py
quietly attend --keys k.npy --values v.npy --queries q.npy --causal --eps 0.02 -o a.npy --json
cp .out report.json
"$PYTHON" errors.py causal
"$PITH" attend --keys k.npy --values v.npy --queries q.npy --eps 1e-9 -o a.npy --json >.out 2>.err
echo "exit $?"; sed -e "s/within [^,]*,/within ...,/" .err
cp .out report.json
check true report.json 'r["fraction_read"] == 1 and not r["certificate"]["certified"]'
try attend --keys k.npy --values v.npy --queries q.npy --eps 0 -o a.npy
try attend --keys k.npy --values v.npy --queries q.npy --eps -1 -o a.npy
quietly compress --keys "$DATA/k.npy" --values "$DATA/v.npy" --points 50 --budget even -o S.safetensors
try attend --summary S.safetensors --queries "$DATA/q.npy" --eps 0.1 -o a.npy
