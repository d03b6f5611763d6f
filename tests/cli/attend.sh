quietly attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" -o a.npy
check attends a.npy "$DATA/q.npy" "$DATA/k.npy" "$DATA/v.npy"
quietly attend --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --queries "$DATA/q4.npy" --causal -o a.npy
check attends a.npy "$DATA/q4.npy" "$DATA/k4.npy" "$DATA/v4.npy" causal
quietly attend --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --queries "$DATA/q4.npy" --causal --window 9 -o a.npy
check attends a.npy "$DATA/q4.npy" "$DATA/k4.npy" "$DATA/v4.npy" causal window=9
quietly attend --keys "$DATA/kf.npy" --values "$DATA/v.npy" --queries "$DATA/k16.npy" -o a.npy
check attends a.npy "$DATA/k16.npy" "$DATA/kf.npy" "$DATA/v.npy"
# No rows: nothing is seen, zeros are answered.
quietly attend --keys "$DATA/no_rows.npy" --values "$DATA/no_rows.npy" --queries "$DATA/new.npy" -o zero.npy --json
"$PYTHON" -c 'import numpy; a = numpy.load("zero.npy"); print(a.shape, abs(a).max())'
quietly attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/no_queries.npy" -o none.npy
"$PYTHON" -c 'import numpy; print(numpy.load("none.npy").shape)'
# Standard input and output; the report then goes to standard error.
"$PITH" attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries - -o - <"$DATA/q.npy" 2>.err | cat >a.npy
sed -e 's/, [0-9.]* s$//' .err
check attends a.npy "$DATA/q.npy" "$DATA/k.npy" "$DATA/v.npy"
quietly attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" -o a.npy --json
cp .out report.json
check has report.json queries keys seconds
check true report.json 'r["queries"] == 150 and r["keys"] == 200'
# Patterns: Longformer, sinks and a window, blocks of one mask and of one mask a head.
quietly attend --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --queries "$DATA/q4.npy" --window 9 --global 100,3 -o a.npy
check attends a.npy "$DATA/q4.npy" "$DATA/k4.npy" "$DATA/v4.npy" window=9 globals=3,100
quietly attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --causal --window 5 --global 0-3 -o a.npy
check attends a.npy "$DATA/q.npy" "$DATA/k.npy" "$DATA/v.npy" causal window=5 globals=0,1,2,3
"$PYTHON" -c 'import numpy as n; r = n.random.default_rng(1); n.save("m.npy", r.random((10, 20)) < .4 + n.eye(10, 20))'
"$PYTHON" -c 'import numpy as n; r = n.random.default_rng(2); n.save("h.npy", (r.random((2, 4, 8, 10)) < .4) | n.eye(8, 10, dtype=bool))'
quietly attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --block-mask m.npy -o a.npy --json
cp .out report.json
check attends a.npy "$DATA/q.npy" "$DATA/k.npy" "$DATA/v.npy" blocks=m.npy
check true report.json '0 < r["keys_seen"] < 200'
quietly attend --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --queries "$DATA/q4.npy" --block-mask h.npy --global 0 -o a.npy
check attends a.npy "$DATA/q4.npy" "$DATA/k4.npy" "$DATA/v4.npy" blocks=h.npy globals=0
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --window 5 --global 0-3,200 -o b.npy
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --window 5 --global 3- -o b.npy
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --global 3 -o b.npy
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --block-size 3 -o b.npy
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --block-mask h.npy -o b.npy
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --block-mask m.npy --block-size 30 -o b.npy
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --block-mask "$DATA/k.npy" -o b.npy
