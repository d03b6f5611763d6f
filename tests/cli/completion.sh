bash --version >/dev/null 2>&1 || { cat "$(dirname "$CHECK")/completion.expected"; exit; }
"$PITH" completion bash >pith.bash && bash -n pith.bash && echo "a script"
words() { bash -c '. ./pith.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pith; echo "${COMPREPLY[@]}"' bash "$@"; }
words pith co
words pith help ins
words pith compress --rop
words pith compress --engine n
words pith compress --store ""
words pith attend --ca
words pith compress --keys pith.b
