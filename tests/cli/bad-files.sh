# Files that are not what they say: the file, the field, the value; nothing is left behind.
cp "$DATA"/*.npy .
for file in missing empty cut_header cut_data long_data magic version lying_shape huge_shape no_dict text five words complex whole; do
  try compress --keys $file.npy --values v.npy --points 50 -o S.safetensors
done
try attend --keys k.npy --values v.npy --queries cut_data.npy -o A.npy
try inspect k.npy
try inspect missing.safetensors
quietly compress --keys k.npy --values v.npy --points 50 -o S.safetensors
"$PYTHON" "$CHECK" flip S.safetensors flipped.safetensors -1
try inspect flipped.safetensors
"$PYTHON" "$CHECK" flip S.safetensors flipped.safetensors -2000
try attend --summary flipped.safetensors --queries q.npy -o A.npy
head -c 1000 S.safetensors >cut.safetensors
try inspect cut.safetensors
try attend --keys S.safetensors:keys --values S.safetensors:nothing --queries q.npy -o A.npy
quietly attend --keys S.safetensors:keys --values S.safetensors:values --queries q.npy -o A.npy
