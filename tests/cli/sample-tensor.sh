# Pairs of a small product: draws in the midst of a stream, edits and deletes, the same law by every method.
cat >updates.txt <<'END'
# A2 and X first: the method pairs holds them fixed
A2 0 0 1
A2 1 1 2
X 0 0 1
X 1 1 1
A1 0 0 3
A1 2 1 1
A1 1 0 5
A1 1 0 -5
draw 2
A1 0 0 -3
END
for method in exact sketch pairs; do
  try sample tensor --rows1 3 --rows2 2 --dim 2 --draws 4 --method $method --updates updates.txt --json
  cp .out report-$method.json
  check has report-$method.json draws failures norm memory_words seconds updates_per_second
  check true report-$method.json 'len(r["draws"]) == 4 and r["failures"] == 0 and abs(r["norm"] - 2) < 1e-4'
  check true report-$method.json 'all(d["pair"] in ([0, 0], [2, 1]) for d in r["draws"][:2])'
  check true report-$method.json 'all(d["pair"] == [2, 1] and abs(d["value"] - 2) < 1e-3 for d in r["draws"][2:])'
done >.all
sed -e '/^[ {}]/d' .all
try sample tensor --rows1 3 --rows2 2 --dim 2 --draws 4 --updates updates.txt
# Records are the same stream.
"$PYTHON" -c '
import numpy as np
kinds = {"A1": 0, "A2": 1, "X": 3}
rows = []
for line in open("updates.txt"):
    w = line.split()
    if w[0] in kinds: rows.append((kinds[w[0]], int(w[2]), int(w[1]), float(w[3])))
    if w[0] == "draw": rows.append((2, 0, int(w[1]), 0))
np.save("updates.npy", np.array(rows, [("kind", "<u4"), ("column", "<u4"), ("row", "<u8"), ("delta", "<f8")]))'
try sample tensor --rows1 3 --rows2 2 --dim 2 --draws 4 --updates updates.npy -q
# Bad lines are named; bad options too.
bad() { printf '%s\n' 'A1 0 0 1' "$1" >bad.txt; try sample tensor --rows1 3 --rows2 2 --dim 2 -q --updates bad.txt; }
bad 'A1 3 0 1'
bad 'A2 0 2 1'
bad 'X 2 0 1'
bad 'A1 0 0 nan'
bad 'A1 0 0 inf'
bad 'A1 0 0 1e50'
bad 'A1 0 0'
bad 'A3 0 0 1'
bad 'row 0 1 2'
bad 'draw x'
printf 'A1 0 0 1\ndraw 2\n' >bad.txt
try sample tensor --rows1 3 --rows2 2 --dim 2 --method sketch --updates bad.txt
printf 'A1 0 0 1\nA2 0 0 1\n' >bad.txt
try sample tensor --rows1 3 --rows2 2 --dim 2 --method pairs --updates bad.txt
try sample tensor --rows1 3 --dim 2
try sample tensor --rows1 3 --rows2 2 --dim 2 --method scan
try sample tensor --rows1 1000000 --rows2 1000000 --dim 64 --method exact --updates bad.txt
try sample tensor --rows1 1000000 --rows2 1000000 --dim 64 --draws 9999 --updates bad.txt

# Saved, loaded, merged: the first line "draw" is left out, since a file that is saved draws nothing.
sed -e '/draw/d' updates.txt >whole.txt
head -n 5 whole.txt >factors.txt
(cat factors.txt; sed -n '6,7p' whole.txt) >first.txt
(cat factors.txt; sed -n '8,$p' whole.txt) >last.txt
sed -n '8,$p' whole.txt >rest.txt
tensor() { quietly sample tensor --rows1 3 --rows2 2 --dim 2 --draws 4 --buckets 16 "$@"; }
for method in exact sketch pairs; do
  tensor --method $method --updates whole.txt --save whole.sketch
  tensor --method $method --updates first.txt --save first.sketch
  quietly sample tensor --load first.sketch --updates rest.txt --save continued.sketch
  cmp continued.sketch whole.sketch && echo "$method: continued is the same"
  part=rest.txt
  [ $method = pairs ] && part=last.txt
  tensor --method $method --updates $part --save last.sketch
  quietly merge last.sketch first.sketch -o merged.sketch
  if [ $method != sketch ]; then cmp merged.sketch whole.sketch && echo "$method: merged is the same"; fi
  try sample tensor --load merged.sketch --draws 2 --updates /dev/null
done
tensor --method pairs --updates rest.txt --save rest.sketch
try merge first.sketch rest.sketch -o none.sketch
tensor --method pairs --seed 2 --updates last.txt --save seed.sketch
try merge first.sketch seed.sketch -o none.sketch
try sample tensor --load first.sketch --draws 9 --updates /dev/null
try sample tensor --load first.sketch --rows1 3
try sample l2 --load first.sketch --updates /dev/null
printf 'draw 1\nA1 0 0 nan\n' >bad.txt
try sample tensor --load first.sketch --updates bad.txt --save bad.sketch
head -c 300 first.sketch >cut.sketch
try sample tensor --load cut.sketch --updates /dev/null
