# Options that the command line reserves for later versions are refused, not ignored.
try attend --keys "$DATA/k.npy" --values "$DATA/v.npy" --queries "$DATA/q.npy" --eps 0.1 -o A.npy
quietly compress --keys "$DATA/k.npy" --values "$DATA/v.npy" --points 50 --budget even -o S.safetensors
