# Keys by the laws of attention: scans, trees and reservoirs.
K="$DATA/k.npy" V="$DATA/v.npy"
"$PYTHON" -c '
import os, numpy as np
q = np.load(os.environ["DATA"] + "/q.npy")
np.save("one.npy", q[:1] / 4), np.save("two.npy", q[:2])'
for law in "--power 1" "--power 2" "--power 3" "--softmax --scale 1" "--softmax --scale 1 --registered"; do
  quietly sample attention --keys "$K" --queries one.npy $law --draws 4000 --json
  cp .out report.json
  check has report.json draws failures proposals acceptance law_distance memory_words updates updates_per_second seconds
  check true report.json 'len(r["draws"]) == 4000 and r["failures"] == 0 and r["law_distance"] == 0'
  echo "$law"
  LAW="$law" "$PYTHON" -c '
import json, os, numpy as np
law = os.environ["LAW"].split()
z = np.load(os.environ["DATA"] + "/k.npy").astype(float) @ np.load("one.npy")[0]
p = np.exp(z) if law[0] == "--softmax" else z ** (2 * int(law[1]))
p /= p.sum()
drawn = json.load(open("report.json"))["draws"]
counts = np.bincount([d["index"] for d in drawn], minlength=len(p))
values = z if law[0] == "--softmax" else z ** int(law[1])
r = json.load(open("report.json"))
norm, right = (r["log_sums"][0], np.log(np.exp(z).sum())) if "log_sums" in r else (r["norms"][0], (values ** 2).sum() ** 0.5)
print("norm right:", abs(norm / right - 1) < 0.01)
print("values right:", all(abs(d["value"] - values[d["index"]]) < 1e-5 for d in drawn))
bins = np.digitize(np.cumsum(p[np.argsort(p)]), np.linspace(0, 1, 17)[1:-1])
seen, wanted = np.zeros(16), np.zeros(16)
np.add.at(seen, bins, counts[np.argsort(p)]), np.add.at(wanted, bins, 4000 * p[np.argsort(p)])
keep = wanted > 0
print("law right:", ((seen - wanted)[keep] ** 2 / wanted[keep]).sum() < 45)'
done
# Acceptance is said; several queries come with their number.
try sample attention --keys "$K" --queries one.npy --softmax --scale 1 --method tree --draws 3
try sample attention --keys "$K" --queries two.npy --softmax --scale 1 --method scan --draws 2
# Outputs with an interval.
quietly sample attention --keys "$K" --queries one.npy --softmax --scale 1 --draws 3000 --values "$V" -o o.npy --json
cp .out report.json
quietly attend --keys "$K" --values "$V" --queries one.npy --scale 1 -o exact.npy
"$PYTHON" -c '
import json, numpy as np
r = json.load(open("report.json"))
o, e, w = np.load("o.npy")[0], np.load("exact.npy").reshape(-1), np.array(r["outputs"][0]["half_width"])
print(o.shape, r["certified"], (abs(o - e) <= w).all(), w.max() < 0.2)'
try sample attention --keys "$K" --queries one.npy --softmax --draws 2 --values "$V"
# What is refused.
try sample attention --keys "$K" --queries one.npy
try sample attention --keys "$K" --softmax
try sample attention --keys "$K" --queries one.npy --power 2 --registered
try sample attention --keys "$K" --queries one.npy --power 9
try sample attention --keys "$DATA/nan.npy" --queries one.npy --softmax
try sample attention --keys "$DATA/k4.npy" --queries one.npy --softmax
try sample attention --keys "$DATA/odd_k.npy" --queries one.npy --softmax
try sample attention --keys "$K" --queries one.npy --softmax --draws 100000000 --memory 1M
