one="--keys $DATA/k.npy --values $DATA/v.npy"
many="--keys $DATA/k4.npy --values $DATA/v4.npy"
# Every budget, with and without queries; all four are reported.
quietly compress $one --points 60 --store f32 -o s.safetensors --json
cp .out r.json
check has r.json points bytes ratio engine seed seconds file_bytes heads[].layer heads[].head heads[].points heads[].store heads[].bytes heads[].probe_error certificate.kind certificate.bound certificate.confidence certificate.certified
check true r.json 'r["points"] == 60 and r["engine"] == "nystrom" and r["query_model"] == "ball" and r["certificate"]["kind"] == "ball"'
quietly compress $one --ratio 1/4 -o s.safetensors --json
cp .out r.json
check true r.json '0.2 < r["ratio"] <= 0.25'
quietly compress $one --bytes 2K --queries "$DATA/q.npy" --probes 40 -o s.safetensors --json
cp .out r.json
check true r.json '1500 < r["bytes"] <= 2048 and r["query_model"] == "samples" and r["certificate"]["kind"] == "probe" and r["probe_error"] > 0'
quietly compress $one --eps 0.2 --queries "$DATA/q.npy" --probes 40 --store f32 -o s.safetensors --json
cp .out r.json
check true r.json 'r["certificate"]["certified"] and r["certificate"]["bound"] <= 0.2 and r["points"] < 200'
# A certificate that was asked for and not reached: exit code 4, and the summary is there.
"$PITH" compress $one --eps 1e-12 --queries "$DATA/q.npy" --probes 40 -o eps.safetensors -q; echo "exit $?"; ls eps.safetensors
"$PITH" compress --keys "$DATA/big_k.npy" --values "$DATA/v.npy" --rho 50 --points 30 --require-certificate -o req.safetensors -q; echo "exit $?"; ls req.safetensors
# The warning about keys too sharp for the ball model.
"$PITH" compress --keys "$DATA/big_k.npy" --values "$DATA/v.npy" --points 100 -o s.safetensors >/dev/null
# Same seed, same bytes, at one and two threads; another seed, other bytes.
for seed in 1 1 2; do
  for threads in 1 2; do
    quietly compress $many --queries "$DATA/q4.npy" --points 60 --seed $seed --threads $threads -o d$seed$threads.safetensors
  done
done
cmp d11.safetensors d12.safetensors && cmp d21.safetensors d22.safetensors && ! cmp -s d11.safetensors d21.safetensors && echo "deterministic"
# The menu.
quietly compress $one --queries "$DATA/q.npy" --probes 40 --plan --json
cp .out r.json
check has r.json plan[].points plan[].bytes plan[].ratio plan[].mean_error plan[].max_error plan[].certificate
check true r.json 'all(a["bytes"] > b["bytes"] for a, b in zip(r["plan"], r["plan"][1:]))' 2>&1
# Any engine of the list.
for engine in exact nystrom halving uniform recent heavy accumulated expected balance; do
  quietly compress $one --queries "$DATA/q.npy" --engine $engine --points 64 -o s.safetensors -q
done
# A prefix of the arrays is as good as arrays that end there.
"$PYTHON" -c '
import numpy, os
d = os.environ["DATA"]
for name, rows in (("k", 120), ("v", 120), ("q", 70)): numpy.save(name + ".npy", numpy.load(d + "/" + name + ".npy")[:rows])'
quietly compress $one --queries "$DATA/q.npy" --prefix 120 --points 50 -o a.safetensors
quietly compress --keys k.npy --values v.npy --queries q.npy --points 50 -o b.safetensors
cmp a.safetensors b.safetensors && echo "same"
