# Outputs that cannot be written: exit code 5, no partial file.
cp "$DATA"/*.npy .
mkdir folder
try compress --keys k.npy --values v.npy --points 50 -o missing/S.safetensors
try compress --keys k.npy --values v.npy --points 50 -o folder
try attend --keys k.npy --values v.npy --queries q.npy -o missing/A.npy
try attend --keys k.npy --values v.npy --queries q.npy -o /dev/full
"$PITH" --help >/dev/full; echo "exit $?"
"$PITH" inspect missing.safetensors >/dev/full; echo "exit $?"
# An existing file stays as it was when the new one cannot be made.
echo precious >S.safetensors
"$PITH" compress --keys nan.npy --values v.npy --points 50 -o S.safetensors; echo "exit $?"; cat S.safetensors
