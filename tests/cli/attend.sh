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
