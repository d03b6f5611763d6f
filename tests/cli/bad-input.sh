# Arrays that do not fit, or hold what cannot be computed with.
cp "$DATA"/*.npy .
try compress --keys k.npy --values short_v.npy --points 50 -o S.safetensors
try compress --keys k.npy --values v4.npy --points 50 -o S.safetensors
try compress --keys line.npy --values line.npy --points 5 -o S.safetensors
try compress --keys no_rows.npy --values no_rows.npy --points 5 -o S.safetensors
try compress --keys nan.npy --values v.npy --points 50 -o S.safetensors
try compress --keys k.npy --values inf.npy --points 50 -o S.safetensors
try compress --keys k.npy --values v.npy --queries nan.npy --points 50 -o S.safetensors
try compress --keys k.npy --values v.npy --queries wide_q.npy --points 50 -o S.safetensors
try compress --keys k4.npy --values v4.npy --queries three_heads.npy --points 50 -o S.safetensors
try compress --keys k.npy --values v.npy --points 201 -o S.safetensors
try compress --keys k.npy --values v.npy --points 3 -o S.safetensors
try compress --keys k.npy --values v.npy --bytes 1GiB -o S.safetensors
try compress --keys k.npy --values v.npy --bytes 64 -o S.safetensors
try compress --keys odd_k.npy --values odd_v.npy --queries odd_q.npy --rope 10000 --points 30 -o S.safetensors
try compress --keys k.npy --values v.npy --query-model samples --points 50 -o S.safetensors
try compress --keys k.npy --values v.npy --prefix 500 --points 50 -o S.safetensors
try attend --keys k.npy --values v.npy --queries wide_q.npy -o A.npy
try attend --keys k.npy --values short_v.npy --queries q.npy -o A.npy
try attend --keys nan.npy --values v.npy --queries q.npy -o A.npy
try attend --keys k4.npy --values v4.npy --queries three_heads.npy -o A.npy
