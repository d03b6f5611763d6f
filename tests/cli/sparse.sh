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
# Broad weights: with a confidence fewer keys are read, and errors stay within the bound.
"$PYTHON" - <<'PY'
import numpy as n
r = n.random.default_rng(6)
n.save("kb.npy", r.standard_normal((32768, 32)).astype("f4"))
n.save("vb.npy", r.standard_normal((32768, 8)).astype("f4"))
n.save("qb.npy", r.standard_normal((40, 32)).astype("f4"))
PY
quietly attend --keys kb.npy --values vb.npy --queries qb.npy --eps 0.1 -o a.npy --json
cp .out certain.json
quietly attend --keys kb.npy --values vb.npy --queries qb.npy --eps 0.1 --confidence 0.99 -o a.npy --json
cp .out report.json
check true report.json 'r["drawn_queries"] > 20 and r["certificate"]["confidence"] == 0.99 and r["certificate"]["certified"]'
check true certain.json 'r["certificate"]["confidence"] == 1 and "drawn_queries" not in r'
"$PYTHON" -c 'import json; a, b = (json.load(open(f))["fraction_read"] for f in ("report.json", "certain.json")); print("fewer" if a < b else (a, b))'
sed -e 's/"kvqa"/("kb", "vb", "qb", "a")/' errors.py >broad.py
"$PYTHON" broad.py
# Patterns with --eps, against a dense mask.
"$PYTHON" -c 'import numpy as n; r = n.random.default_rng(1); n.save("m.npy", r.random((5, 32)) < .4 + n.eye(5, 32))'
cat >masked.py <<'PY'
import sys, json, numpy as n
k, v, q, a = (n.load(f + ".npy").astype(float) for f in "kvqa")
i, j = n.arange(2008, 2048)[:, None], n.arange(2048)[None]
see = n.abs(i - j) < 300 if "window" in sys.argv else n.ones((40, 2048), bool)
if "blocks" in sys.argv: see &= n.repeat(n.repeat(n.load("m.npy"), 8, 0), 64, 1)
if "globals" in sys.argv: see |= (j < 4) | (j == 700)
if "causal" in sys.argv: see &= j <= i
z = n.where(see, q @ k.T / k.shape[1] ** .5, -n.inf)
w = n.exp(z - z.max(1, keepdims=True))
e = n.linalg.norm(w @ v / w.sum(1, keepdims=True) - a, axis=1)
r = json.load(open("report.json"))
print("within the bound" if e.max() <= r["certificate"]["bound"] <= .02 and abs(r["keys_seen"] - see.sum(1).mean()) < 1e-6 else (e, r))
PY
for pattern in "--causal --window 300" "--window 300 --global 0-3,700" "--block-mask m.npy" \
  "--causal --window 300 --global 0-3,700 --block-mask m.npy"; do
  quietly attend --keys k.npy --values v.npy --queries q.npy --eps 0.02 $pattern -o a.npy --json
  cp .out report.json
  "$PYTHON" masked.py $(echo "$pattern" | tr -c 'a-z\n' ' ' | sed 's/global/globals/; s/block mask m npy/blocks/')
done
try attend --keys k.npy --values v.npy --queries q.npy --confidence 0.9 -o a.npy
try attend --keys k.npy --values v.npy --queries q.npy --eps 0.1 --confidence 1 -o a.npy
try attend --keys k.npy --values v.npy --queries q.npy --eps 0 -o a.npy
try attend --keys k.npy --values v.npy --queries q.npy --eps -1 -o a.npy
# A cache kept in q8: the bound is against the answer of all its points.
quietly compress --keys k.npy --values v.npy --engine exact --store q8 --budget even -o C.safetensors
quietly attend --summary C.safetensors --queries q.npy -o all.npy
quietly attend --summary C.safetensors --queries q.npy --eps 0.02 -o a.npy --json
cp .out report.json
check true report.json 'r["fraction_read"] < 1/3 and r["certificate"]["certified"] and r["certificate"]["bound"] <= 0.02 and r["against"] == "summary"'
"$PYTHON" -c 'import numpy as n; e = n.linalg.norm(n.load("all.npy") - n.load("a.npy"), axis=-1).max(); print("within the bound" if 0 < e <= .02 else e)'
"$PITH" attend --summary C.safetensors --queries q.npy --eps 0.02 -o a.npy | tail -1 | sed -e 's/tail [0-9.]*/tail .../'
try attend --summary C.safetensors --queries q.npy --eps 0.02 --causal -o a.npy
try attend --summary C.safetensors --queries q.npy --eps 0.02 --window 3 -o a.npy
