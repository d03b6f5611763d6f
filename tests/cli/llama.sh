# States that llama.cpp saved (tests/data), and one with more tokens that is made of numbers.
root="$(dirname "$CHECK")/../.."
data="$root/tests/data"
model="$root/models/byte-lm-3m-f16.gguf"
cp "$data/llama-f16.state" f16.state
cp "$data/llama-q8.state" q8.state
cp "$data/llama-f32.session" f32.session
cp "$model" M.gguf
for file in f16.state q8.state f32.session; do
  try llama inspect $file
  quietly llama compress $file --model M.gguf --ratio 1 -o whole
  cmp $file whole && echo "the same bytes"
done
quietly llama inspect f32.session --json
cp .out inspect.json
check true inspect.json 'r["kind"] == "session" and r["version"] == 10 and r["cells"] == 2 and r["transposed"] and r["key_type"] == "F32"'
check true inspect.json 'r["cell_bytes"] == 12 + 4 * 2 * 128 * 4 and r["file_bytes"] == 8357 and r["architecture"] == "llama"'

# A state of 192 tokens: keys and values as pith lm dump gives them.
"$PYTHON" -c '
print("the man went down the river and looked at the light in the window of the old house. " * 6)' >text.txt
quietly lm dump --model M.gguf --text text.txt --context 192 -o d
"$PYTHON" -c '
import numpy, struct
k, v = numpy.load("d/k.npy"), numpy.load("d/v.npy")
layers, heads, n, d = k.shape
tokens = open("text.txt", "rb").read()[:n]
out = struct.pack("<III", 0x67677371, 3, n) + b"".join(struct.pack("<i", t) for t in tokens)
out += struct.pack("<II", 1, n) + b"".join(struct.pack("<iII", i, 1, 0) for i in range(n)) + struct.pack("<II", 0, layers)
for a in (k, v):
    for layer in a:
        out += struct.pack("<IQ", 1, heads * d * 2) + layer.transpose(1, 0, 2).astype("<f2").tobytes()
open("long.state", "wb").write(out)
other = bytearray(out)
for i in range(n): other[12 + 4 * i] = 122
open("other.state", "wb").write(other)
layer = 12 + heads * d * 2 * n
small = bytearray(out)
start = len(out) - 2 * layers * layer
open("fewer.state", "wb").write(out[:start - 4] + struct.pack("<I", 2) + out[start:start + 2 * layer] + out[-2 * layer:])
wide = heads * d // 2
row = struct.pack("<IQ", 1, wide * 2) + b"\0" * (wide * 2 * n)
open("narrow.state", "wb").write(out[:start] + 2 * layers * row)
packed = bytearray(out)
packed[12 + 4 * 50:16 + 4 * 50] = struct.pack("<i", -7)
open("packed.state", "wb").write(packed)
late = start + 3 * layer + 12 + heads * d * 2 * 77
changed = bytearray(out)
changed[late:late + 2 * d] = changed[late + 640:late + 640 + 2 * d]
open("changed.state", "wb").write(changed)
small[start + 12:start + 14] = b"\xff\xff"
open("nan.state", "wb").write(small)'
quietly llama compress long.state --model M.gguf --ratio 1/4 -o small.state --json --refine 20
cp .out report.json
check has report.json engine queries query_seconds cells_before cells filled file_bytes_before file_bytes ratio probe_error fold_error predicted_kl seed seconds
check true report.json 'r["queries"] == "recomputed" and r["cells"] == 48 and r["cells_before"] == 192 and r["ratio"] == 0.25'
check true report.json 'r["file_bytes"] < 0.27 * r["file_bytes_before"] and r["probe_error"] > 0'
"$PYTHON" -c '
import os, json
print("file bytes as told" if os.path.getsize("small.state") == json.load(open("report.json"))["file_bytes"] else "other")'
quietly llama inspect small.state --json
cp .out small.json
check true small.json 'r["cells"] == 48 and r["tokens"] == 192 and r["first_position"] == 0 and r["last_position"] == 191'
# A second time, by recorded queries, by those of another text, by none; to a size.
quietly llama compress long.state --model M.gguf --cells 24 --queries d/q.npy --refine 0 -o again.state --json
cp .out again.json
check true again.json 'r["queries"] == "recorded" and r["cells"] == 24'
quietly llama calibrate --model M.gguf --text text.txt --tokens 192 -o c.npy --head-weights w.npy
quietly llama compress small.state --model M.gguf --cells 24 --calibration c.npy --refine 0 -o again.state --json
cp .out again.json
check true again.json 'r["queries"] == "calibration" and r["cells_before"] == 48 and r["predicted_kl"] is None'
quietly llama compress long.state --model M.gguf --ratio 1/4 --calibration c.npy --head-weights w.npy --refine 20 -o again.state --json
cp .out again.json
check true again.json 'r["predicted_kl"] > 0'
quietly llama compress long.state --model M.gguf --bytes 100K --engine recent -o recent.state --json
cp .out recent.json
check true recent.json 'r["queries"] == "none" and 90000 < r["file_bytes"] <= 102400'
quietly llama compress long.state --model M.gguf --kl 0.0002 --refine 0 -o aimed.state --json
cp .out aimed.json
check true aimed.json '0.00005 < r["predicted_kl"] <= 0.00022 and 22 < r["cells"] < 192 and 0 < r["heads_that_matter"] < 8'
quietly llama compress long.state --model M.gguf --kl 0.0001 --refine 0 -o aimed.state --json
cp .out closer.json
"$PYTHON" -c '
import json
few, many = (json.load(open(name))["cells"] for name in ("aimed.json", "closer.json"))
print("more cells for less" if few < many else (few, many))'

# What is refused, and nothing is left behind.
head -c 5000 f16.state >cut.state
"$PYTHON" -c '
b = bytearray(open("f16.state", "rb").read())
b[4] = 2
open("old.state", "wb").write(b)'
try llama
try llama eat f16.state
try llama inspect
try llama inspect cut.state
try llama inspect old.state
try llama inspect M.gguf
try llama inspect none.state
try llama compress f16.state --model M.gguf -o x
try llama compress f16.state --ratio 1/2 -o x
try llama compress f16.state --model M.gguf --ratio 1/2
try llama compress f16.state --model M.gguf --ratio 1/2 --cells 2 -o x
try llama compress f16.state --model M.gguf --kl 0.01 --engine recent -o x
try llama compress f16.state --model M.gguf --kl 0.01 --queries d/q.npy -o x
try llama compress cut.state --model M.gguf --ratio 1/2 -o x
try llama compress long.state --model M.gguf --bytes 1K -o x
try llama compress long.state --model M.gguf --ratio 1/4 --queries d/k.npy -o x
quietly llama calibrate --model M.gguf --text text.txt --tokens 150 -o few.npy
try llama compress small.state --model M.gguf --cells 24 --calibration few.npy -o x
try llama compress other.state --model M.gguf --ratio 1/4 -o x
try llama compress fewer.state --model M.gguf --ratio 1/4 -o x
try llama compress narrow.state --model M.gguf --ratio 1/4 -o x
try llama compress packed.state --model M.gguf --ratio 1/4 -o x
try llama compress changed.state --model M.gguf --ratio 1/4 -o x
try llama compress nan.state --model M.gguf --ratio 1/4 -o x
try llama compress nan.state --model M.gguf --ratio 1/4 --engine recent -o x
try llama compress old.state --model M.gguf --ratio 1/4 -o x
try llama compress long.state --model M.gguf --ratio 1/4 --head-weights w.npy -o x
try llama compress long.state --model M.gguf --ratio 1/4 --calibration c.npy --head-weights c.npy -o x
try llama calibrate --model M.gguf --text cut.state --tokens 16 -o x
