try
try --help
try help
try --version
try help compresss
try compres --keys K.npy
try frobnicate
try help merge
try inspect --help
try --frobnicate
# A command with several forms has one a line.
"$PITH" lm --help >.help && sed -n '/^Usage/,/^$/p' .help
for command in compress attend compare; do
  "$PITH" $command --help >.help && head -4 .help && grep -A1 '^Examples' .help
done
