try compress
try compress --keys K.npy
try compress --keys K.npy --values V.npy -o S.safetensors
try compress --keys K.npy --values V.npy --points 9 --ratio 1/4 -o S.safetensors
try compress --keys K.npy --values V.npy --points 9
try compress --keys K.npy --values V.npy --plan -o S.safetensors
try compress --keys K.npy --values V.npy --rope 10000 --points 9 -o S.safetensors
try compress --keyz K.npy
try compress -x
try compress --keys
try compress --json=yes
try compress --points 12x
try compress --points 0
try compress --points -3
try compress --points 99999999999999999999999
try compress --ratio 0
try compress --ratio nan
try compress --bytes 12Q
try compress --bytes 99999999999GiB
try compress --confidence 1
try compress --engine nystroem
try compress --query-model sphere
try compress --store f64
try compress --rope 1
try compress --rope 10000:thirds
try compress --outliers many
try compress --threads 0
try compress --seed -1
try compress --progress sometimes
try compress extra --keys K.npy
try attend
try attend --summary S.safetensors --keys K.npy
try attend --keys K.npy --values V.npy -o A.npy
try attend --keys K.npy --values V.npy --queries Q.npy
try attend --summary S.safetensors --queries Q.npy --causal -o A.npy
try attend --summary S.safetensors --queries Q.npy --window 4 -o A.npy
try attend --keys - --values - --queries Q.npy -o A.npy <"$DATA/k.npy"
try compare
try compare --summary S.safetensors --keys K.npy --values V.npy
try compare --keys K.npy --values V.npy --queries Q.npy --engines uniforn
try compare --keys K.npy --values V.npy --queries Q.npy --engines all --sizes 1/4,small
try compare --summary S.safetensors --keys K.npy --values V.npy --queries Q.npy --sizes 1/4
try inspect
try inspect a b
try merge a -o M.safetensors
try merge a b
try completion
try completion fish
