# A summary answers, is inspected, merged, compared.
one="--keys $DATA/k.npy --values $DATA/v.npy"
quietly compress $one --queries "$DATA/q.npy" --probes 40 --points 80 --store f32 -o s.safetensors
quietly attend $one --queries "$DATA/new.npy" -o exact.npy
quietly attend --summary s.safetensors --queries "$DATA/new.npy" -o answer.npy
check near answer.npy exact.npy 0.1
"$PITH" attend --summary - --queries "$DATA/new.npy" -o piped.npy -q <s.safetensors; cmp answer.npy piped.npy && echo "same"
try inspect s.safetensors
quietly inspect s.safetensors --json
cp .out r.json
check has r.json points bytes ratio engine seed certificate heads[].exact heads[].certificate
quietly compare --summary s.safetensors $one --queries "$DATA/new.npy" --json
cp .out r.json
check has r.json mean_error max_error rms_error relative_error probe_share worst_error heads_searched rho heads[].mean_error heads[].ball.certified
check true r.json '0 < r["mean_error"] <= r["rms_error"] <= r["max_error"] < 0.2 and r["worst_error"] > 0'
# What is measured from the file is what the answers say.
"$PYTHON" -c '
import json, numpy
e = numpy.linalg.norm(numpy.load("exact.npy") - numpy.load("answer.npy"), axis=-1)
print(abs(e.mean() / json.load(open("r.json"))["mean_error"] - 1) < 1e-4)'
# Two halves, merged, answer for both.
"$PYTHON" -c '
import numpy, os
d = os.environ["DATA"]
for name in "kv":
    a = numpy.load(d + "/" + name + ".npy"); numpy.save(name + "1.npy", a[:90]); numpy.save(name + "2.npy", a[90:])'
quietly compress --keys k1.npy --values v1.npy --points 60 --rho 4 --store f32 -o h1.safetensors
quietly compress --keys k2.npy --values v2.npy --points 60 --rho 4 --store f32 -o h2.safetensors
try merge h1.safetensors h2.safetensors -o m.safetensors -q
quietly attend --summary m.safetensors --queries "$DATA/new.npy" -o merged.npy
check near merged.npy exact.npy 0.1
quietly merge h1.safetensors h2.safetensors -o m.safetensors --json
cp .out r.json
check true r.json 'r["points"] == 120 and r["heads"][0]["source_rows"] == 200'
quietly compress --keys "$DATA/k4.npy" --values "$DATA/v4.npy" --points 60 -o other.safetensors -q
try merge h1.safetensors other.safetensors -o x.safetensors
try compare --summary other.safetensors $one --queries "$DATA/new.npy"
try attend --summary other.safetensors --queries "$DATA/new.npy" -o x.npy
