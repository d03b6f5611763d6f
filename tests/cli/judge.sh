# Engines beside each other: every engine is a row, and what cannot be built says why.
arrays="--keys $DATA/k4.npy --values $DATA/v4.npy --queries $DATA/q4.npy"
quietly compare $arrays --prefix 160 --engines all --sizes 1/2,40 --json
cp .out r.json
check has r.json engines[].engine engines[].size seconds
check true r.json 'len({e["engine"] for e in r["engines"]}) >= 9 and not any("reason" in e for e in r["engines"])'
check true r.json 'all(0 < e["mean_error"] <= e["max_error"] for e in r["engines"] if e["engine"] != "exact")'
quietly compare --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/new.npy" --engines heavy,uniform --sizes 50,999 --json
cp .out r.json
check true r.json '["reason" in e for e in r["engines"]] == [False, True, False, True]'
"$PITH" compare --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/new.npy" --engines heavy,uniform --sizes 50 --per-head | sed -n -e '1,2p' -e '/^Relative/,$p' | sed -e 's/[0-9][0-9.]*/N/g'
# With everything kept in f32 and later rows seen exactly, nothing is lost: the two ways to attend agree.
quietly compare $arrays --prefix 160 --engines exact --store f32 --json
cp .out r.json
check true r.json 'r["engines"][0]["max_error"] < 1e-5'
try compare $arrays --prefix 200 --engines uniform
try compare $arrays --prefix 201 --engines uniform
try compare $arrays --prefix 100 --engines uniform --prompt-queries "$DATA/q4.npy"
