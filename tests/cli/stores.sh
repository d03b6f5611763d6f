# Quantised stores: whole caches and summaries, through files, compare and merge.
arrays="--keys $DATA/k.npy --values $DATA/v.npy"
for store in q8 q4; do
  quietly compress $arrays --engine exact --store $store -o $store.safetensors --json
  cp .out r.json
  check true r.json "r['points'] == 200 and r['heads'][0]['store'] == '$store'"
  check true r.json 'r["ratio"] == {"q8": 40, "q4": 24}[r["heads"][0]["store"]] / 64'
  quietly compare --summary $store.safetensors $arrays --queries "$DATA/q.npy" --json
  cp .out r.json
  check true r.json "0 < r['relative_error'] < {'q8': 0.01, 'q4': 0.1}['$store']"
  quietly attend --summary $store.safetensors --queries "$DATA/q.npy" -o $store.npy
done
quietly attend $arrays --queries "$DATA/q.npy" -o exact.npy
check near q8.npy exact.npy 0.002
check near q4.npy exact.npy 0.02
quietly merge q8.safetensors q4.safetensors -o both.safetensors
quietly inspect both.safetensors --json
cp .out r.json
check true r.json 'r["points"] == 400 and r["heads"][0]["store"] == "f32"'
quietly merge q4.safetensors q4.safetensors -o twice.safetensors
quietly attend --summary twice.safetensors --queries "$DATA/q.npy" -o twice.npy
check near twice.npy q4.npy 1e-6
quietly compress $arrays --points 50 --store q4 -o s.safetensors --json
cp .out r.json
check true r.json 'r["bytes"] == 50 * 24 and r["certificate"]["kind"] == "ball"'
