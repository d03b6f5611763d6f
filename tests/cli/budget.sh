# A total of bytes spread over heads by what their errors cost.
arrays="--keys $DATA/k4.npy --values $DATA/v4.npy --queries $DATA/q4.npy"
for budget in even spread; do
  quietly compress $arrays --ratio 1/4 --store auto --refine 0 --budget $budget --head-weights "$DATA/w4.npy" -o $budget.safetensors --json
  cp .out $budget.json
  check true $budget.json 'r["ratio"] <= 0.25 and r["predicted_kl"] > 0 and len(r["heads"]) == 4'
done
check true spread.json 'sum(h["bytes"] for h in r["heads"]) == r["bytes"] and r["bytes"] > 5600 - 32'
check true spread.json 'r["heads"][0]["bytes"] > 2 * r["heads"][3]["bytes"]'
quietly inspect spread.safetensors --json
cp .out again.json
"$PYTHON" -c 'import json
even, spread, again = (json.load(open(name + ".json"))["predicted_kl"] for name in ("even", "spread", "again"))
if not (spread < even and spread == again): print("predicted KL:", even, spread, again)'
"$PITH" inspect -v spread.safetensors >map.txt
for words in "points, layers down" "store: 8 q8" "probe error, layers" "predicted KL"; do
  grep -q "$words" map.txt || echo "no \"$words\" in the map"
done
quietly compress $arrays --plan --head-weights "$DATA/w4.npy" --json
cp .out plan.json
check true plan.json 'all(a["bytes"] > b["bytes"] and a["predicted_kl"] <= b["predicted_kl"] * 1.2 for a, b in zip(r["plan"], r["plan"][1:]))'

try compress $arrays --ratio 1/4 --head-weights "$DATA/w_wrong.npy" -o S.safetensors
try compress $arrays --ratio 1/4 --head-weights "$DATA/w_negative.npy" -o S.safetensors
try compress $arrays --ratio 1/4 --head-weights "$DATA/missing.npy" -o S.safetensors
try compress $arrays --points 50 --budget spread -o S.safetensors
try compress $arrays --points 50 --store auto -o S.safetensors
try compress --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --ratio 1/4 --budget spread -o S.safetensors
try compress $arrays --bytes 100 -o S.safetensors
