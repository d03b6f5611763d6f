# lib.sh - what cases are written with.

# try ARGUMENT... - runs pith and shows what a user sees; files that it leaves behind are named.
try() {
  echo "\$ pith $*"
  ls -A >.before
  "$PITH" "$@" >.out 2>.err
  code=$?
  cat .out
  sed -e 's/^/! /' .err
  ls -A | sed -e '/^\.before$/d' -e '/^\.after$/d' -e '/^\.out$/d' -e '/^\.err$/d' >.after
  sed -e '/^\.before$/d' -e '/^\.after$/d' -e '/^\.out$/d' -e '/^\.err$/d' .before >.old
  left=$(comm -13 .old .after | sed -e '/^\.old$/d' | tr '\n' ' ')
  [ -z "$left" ] || echo "left: ${left% }"
  [ $code = 0 ] || echo "exit $code"
}

# quietly ARGUMENT... - runs pith where only success matters.
quietly() { "$PITH" "$@" >.out 2>.err || { echo "\$ pith $*"; cat .out .err; echo "exit $?"; }; }

# check WHAT ... - a property that check.py tests.
check() { echo "check $*"; "$PYTHON" "$CHECK" "$@"; }
