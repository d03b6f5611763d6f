# pith sample l2: streams of text and of records, exact and sketched, saved, merged, and every way a line can be bad.
printf 'A 0 0 3\n# a remark\n\nA 1 0 4\ndraw 2\nA 0 0 -3\nrow 2 0\n' >stream
try sample l2 --rows 10 --draws 4 --updates stream
try sample l2 --rows 10 --draws 4 --updates stream --method sketch
try sample l2 --rows 1000000000000 --draws 4 --updates stream
printf 'A 0 0 3\nA 1 1 4\nx 1 1\ndraw 1\nx 0 1\nx 1 -1\n' >free
try sample l2 --rows 10 --dim 2 --draws 2 --updates free --method exact
try sample l2 --rows 10 --dim 2 --draws 2 --updates free --method sketch
try sample l2 --rows 10 --dim 2 --draws 4 --updates free --method sketch
quietly sample l2 --rows 10 --draws 4 --updates stream --method sketch --json
cp .out report.json
check has report.json method draws norm failures memory_words seconds updates_per_second

# Parts of a stream, in whatever way it is cut, give the sketch of the whole.
head -n 4 stream >first
tail -n 2 stream >last
for part in stream first last; do quietly sample l2 --rows 100000 --draws 7 --updates $part --save $part.sketch; done
sed -e '/draw/d' stream >whole
quietly sample l2 --rows 100000 --draws 7 --updates whole --save whole.sketch
try merge last.sketch first.sketch -o merged.sketch
cmp merged.sketch whole.sketch && echo same
try sample l2 --load merged.sketch --draws 7 --updates /dev/null
try sample l2 --load merged.sketch --draws 9999 --updates /dev/null

# Records.
"$PYTHON" - <<END
import numpy as np
kind = np.dtype([('kind', '<u4'), ('column', '<u4'), ('row', '<u8'), ('delta', '<f8')])
np.save('records.npy', np.array([(0, 0, 0, 3), (0, 0, 1, 4), (2, 0, 2, 0), (0, 0, 0, -3)], kind))
np.save('bad.npy', np.array([(0, 0, 0, 3), (0, 0, 99, 4)], kind))
np.save('other.npy', np.arange(4.0))
END
try sample l2 --rows 10 --draws 4 --updates records.npy
try sample l2 --rows 10 --draws 4 --updates - <records.npy
try sample l2 --rows 10 --updates bad.npy
try sample l2 --rows 10 --updates other.npy
head -c 200 records.npy >cut.npy
try sample l2 --rows 10 --draws 3 --updates cut.npy

# Bad lines: the number of the line; with --save, what stands before it is kept.
for line in 'A 10 0 1' 'A 0 1 1' 'A 0 0 nan' 'A 0 0 inf' 'A 0 0' 'A 0 0 1 1' 'A -1 0 1' 'A 0 0 1e30' 'x 0 1' 'B 0 0 1' \
  'row 0' 'row 0 1 2' 'draw 2' 'draw x' 'A 0 0 one'; do
  printf 'A 3 0 1\n%s\nA 4 0 1\n' "$line" >bad
  try sample l2 --rows 10 --method sketch --updates bad
done
printf 'A 3 0 1\nA 11 0 1\n' >bad
try sample l2 --rows 10 --updates bad --save bad.sketch
try sample l2 --load bad.sketch --updates /dev/null

# Files that are not what they should be.
quietly sample l2 --rows 100000 --seed 2 --draws 7 --updates whole --save seed.sketch
try merge whole.sketch seed.sketch -o none.sketch
head -c 3000 whole.sketch >cut.sketch
try sample l2 --load cut.sketch --updates /dev/null
printf 'x' | dd of=seed.sketch bs=1 seek=5000 conv=notrunc 2>.dd
try sample l2 --load seed.sketch --updates /dev/null

# Usage.
try sample l2 --updates stream
try sample l3 --rows 10
try sample l2 --rows 10 --draws 100000 --method sketch --updates stream
try sample l2 --rows 10 --method exact --save F.sketch --updates stream
try sample l2 --rows 1000 --method exact --memory 1K --updates stream
try sample l2 --rows 10 --distinct 5 --updates stream
