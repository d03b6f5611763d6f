# Words written for this test: enough for a model of bytes to read.
export PITH_MODEL="$(dirname "$CHECK")/../../models/byte-lm-3m-f16.gguf"
"$PYTHON" -c '
words = "the boat went down the river and the man on the bank looked at the light in the window of the old house".split()
state, text = 1, []
for i in range(430):
    state = state * 1103515245 + 12345 & 0x7fffffff
    text.append(words[(state >> 16) % len(words)] + (".\n" if i % 11 == 10 else ""))
text = " ".join(text)
open("text.txt", "w").write(text)
open("short.txt", "w").write(text[:700])
open("long.txt", "w").write(text[:1900])'
token=2048 # bytes of the keys and values of one, in f16

# The model runs on the bounded cache: at most R of the bytes of all tokens; the better engine loses less.
for engine in nystrom recent; do
  quietly lm perplexity --mode stream --text text.txt --context 1536 --prefix 1280 --engine $engine --store f16 --ratio 1/8 --json
  cp .out $engine.json
  check has $engine.json bits_per_byte nll kl_mean kl_p99 top1_agreement cache_bytes full_cache_bytes prefill_seconds stream_seconds push_cost compress_seconds tokens_per_second engine ratio mode chunk_bytes sample_bytes probe_bytes other_bytes held_bytes folds fold_seconds max_step_seconds
  check true $engine.json 'r["mode"] == "stream" and r["full_cache_bytes"] == 1536 * '$token' and 0 < r["cache_bytes"] <= r["full_cache_bytes"] / 8 and r["folds"] > 0'
  check true $engine.json '0 < r["kl_mean"] < r["kl_p99"] and r["tokens"] == 256 and 0 < r["max_step_seconds"] <= r["fold_seconds"] and abs(r["stream_seconds"] - (1 + r["push_cost"]) * r["prefill_seconds"]) < 1e-9'
done
"$PYTHON" -c '
import json
a, b = (json.load(open(name))["kl_mean"] for name in ("nystrom.json", "recent.json"))
print("less loss" if a < b else f"more loss: {a}, {b}")'
# Where everything fits into window and chunk, nothing is lost.
quietly lm perplexity --mode stream --text text.txt --context 260 --prefix 200 --ratio 1/2 --json
cp .out whole.json
check true whole.json 'r["kl_mean"] < 1e-5 and r["folds"] == 0'

# Held bytes are those of a short prompt, however long it is.
for text in short long; do
  quietly lm generate --text $text.txt --cache-bytes 256K --tokens 8 --json
  cp .out $text.json
done
check has long.json length cache_bytes held_bytes folds longest_pause_seconds tokens_per_second
"$PYTHON" -c '
import json
short, long = (json.load(open(name)) for name in ("short.json", "long.json"))
print(short["held_bytes"] == long["held_bytes"], long["cache_bytes"] <= 256 << 10, long["prompt_tokens"], long["length"])'

# A prompt read once, answered later, twice the same; and as if it had not been saved, where nothing was folded yet.
printf 'the man went down the river and' >first
printf ' looked at the' >second
cat first second >both
quietly lm generate --text first --cache-bytes 256K --tokens 0 --save-cache first.cache
wc -c <.out | tr -d ' '
for out in one two; do
  quietly lm generate --text second --load-cache first.cache --tokens 12 --json
  cp .out $out.json
done
quietly lm generate --text both --cache-bytes 256K --tokens 12 --json
cp .out both.json
"$PYTHON" -c '
import json
one, two, both = (json.load(open(name + ".json")) for name in ("one", "two", "both"))
print(one["text"] == two["text"] == both["text"], one["length"] == both["length"], one["prompt_tokens"], both["prompt_tokens"])'
quietly lm generate --text long.txt --cache-bytes 256K --tokens 12 --save-cache long.cache --json
"$PITH" lm generate --prompt " The" --load-cache long.cache --tokens 12 >one
"$PITH" lm generate --prompt " The" --load-cache long.cache --tokens 12 >two
cmp one two && wc -c <one | tr -d ' '

# Chat: several turns in one cache; the saved one goes on.
printf 'the boat\n\nthe old house\r\n' >lines
quietly lm chat --cache-bytes 256K --tokens 300 --json --save-cache chat.cache <lines
cp .out chat.json
check has chat.json template turns[].prompt_tokens turns[].tokens turns[].text turns[].cache_bytes turns[].tokens_per_second length held_bytes folds longest_pause_seconds
check true chat.json 'r["length"] == sum(t["prompt_tokens"] + t["tokens"] for t in r["turns"]) + 1 and r["folds"] > 0 and r["cache_bytes"] <= 256 << 10'
echo "the window" | "$PITH" lm chat --load-cache chat.cache --tokens 10 --json >more.json
check true more.json 'r["length"] == 2 + 9 + 15 + 600 + 10 + 10 and len(r["turns"]) == 1'

# Recall, and the judge's streaming half.
printf '{"prefix": "the man went down the river and looked at the boat in", "query": " the", "answer": " o"}\n' >cases.jsonl
quietly lm recall --mode stream --cases cases.jsonl --ratio 1/2 --sinks 2 --window 8 --json
cp .out recall.json
check true recall.json 'r["cases"] == 1 and r["mode"] == "stream"'
quietly lm judge --mode stream --text text.txt --context 1536 --cases cases.jsonl --engines nystrom:spread:f16,recent,halving --ratios 1/4,1/16 --json -o judged
cp .out judge.json
check has judge.json complete mode rows[].engine rows[].budget rows[].store rows[].size rows[].kl_mean rows[].cache_bytes rows[].full_cache_bytes rows[].held_bytes rows[].other_bytes rows[].compress_seconds rows[].max_step_seconds rows[].texts[].kl_mean texts[].prefill_seconds
check true judge.json 'r["complete"] and r["mode"] == "stream" and r["prefix"] == 768 and [(e["engine"], e["size"]) for e in r["rows"]] == [(e, s) for e in ("nystrom", "recent", "halving") for s in ("1/4", "1/16")]'
check true judge.json 'all(0 < e["cache_bytes"] <= e["full_cache_bytes"] / (4 if e["size"] == "1/4" else 16) for e in r["rows"])'
check true judge.json 'all(abs(e["held_bytes"] / (e["cache_bytes"] + e["other_bytes"]) - 1) < .02 for e in r["rows"])'
check true judge.json 'r["rows"][0]["kl_mean"] < r["rows"][1]["kl_mean"] and r["rows"][0]["kl_mean"] < r["rows"][2]["kl_mean"]'
# One judge, one perplexity: the same figures.
quietly lm perplexity --mode stream --text text.txt --context 1536 --prefix 768 --engine recent --ratio 1/4 --json
"$PYTHON" -c '
import json
one, row = json.load(open(".out")), json.load(open("judge.json"))["rows"][2]
print(all(abs(one[key] - row[key]) <= 1e-6 * abs(one[key]) for key in ("kl_mean", "kl_p99", "nll", "cache_bytes")))'
ls judged 2>/dev/null | grep -v svg
"$PITH" lm judge --mode stream --text text.txt --context 1536 --engines recent,uniform --ratios 1/4 | awk 'NR <= 3 { print $1, $2, $3, $4 }'

# Refusals.
try lm generate --prompt a --tokens 0
try lm generate --prompt a --save-cache a.cache
try lm generate --prompt a --cache-bytes 256K --ratio 1/4
try lm generate --prompt a --cache-bytes 256K --load-cache first.cache
try lm generate --prompt a --cache-bytes 256K --tokens 4000
try lm generate --prompt a --cache-bytes 16K
try lm generate --prompt a --load-cache none.cache
try lm perplexity --mode stream --text text.txt --engine exact
try lm perplexity --mode stream --text text.txt --context 1536 --engine balance --ratio 1/4
try lm judge --mode stream --text text.txt --engines exact:f16
try lm judge --mode stream --text text.txt --heat-map nystrom
"$PYTHON" - <<'END'
import os
model = bytearray(open(os.environ["PITH_MODEL"], "rb").read())
model[-5] ^= 1
open("other.gguf", "wb").write(model)
cache = bytearray(open("long.cache", "rb").read())
cache[len(cache) // 2] ^= 1
open("changed.cache", "wb").write(cache)
open("short.cache", "wb").write(cache[:1000])
END
for option in "--model other.gguf --load-cache long.cache" "--load-cache changed.cache" "--load-cache short.cache" "--load-cache text.txt"; do
  try lm generate --prompt a $option
done
