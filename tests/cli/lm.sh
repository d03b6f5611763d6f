# Words written for this test: enough for a model of bytes to read.
export PITH_MODEL="$(dirname "$CHECK")/../../models/byte-lm-3m-f16.gguf"
"$PYTHON" -c '
words = "the boat went down the river and the man on the bank looked at the light in the window of the old house".split()
state, text = 1, []
for i in range(300):
    state = state * 1103515245 + 12345 & 0x7fffffff
    text.append(words[(state >> 16) % len(words)] + (".\n" if i % 11 == 10 else ""))
open("text.txt", "w").write(" ".join(text))'

# A quarter of the cache, by the best engine and by a window.
for engine in nystrom recent; do
  quietly lm perplexity --text text.txt --context 512 --prefix 384 --engine $engine --ratio 1/4 --json
  cp .out $engine.json
  check has $engine.json bits_per_byte nll kl_mean kl_p99 top1_agreement cache_bytes full_cache_bytes predicted_kl prefill_seconds compress_seconds tokens_per_second engine ratio mode
  check true $engine.json 'r["full_cache_bytes"] == 4 * 2 * 2 * 64 * 2 * 384 and 0.2 < r["cache_bytes"] / r["full_cache_bytes"] <= 0.25'
  check true $engine.json '0.5 < r["bits_per_byte"] < 8 and 0 < r["kl_mean"] < r["kl_p99"] and r["tokens"] == 128'
done
"$PYTHON" -c '
import json
a, b = (json.load(open(name))["kl_mean"] for name in ("nystrom.json", "recent.json"))
print("less loss" if a < b else f"more loss: {a}, {b}")'
# Whole caches.
for store in f16 q8 q4; do
  quietly lm perplexity --text text.txt --context 512 --prefix 384 --engine exact --store $store --json
  cp .out $store.json
done
check true f16.json 'r["kl_mean"] < 1e-6 and r["top1_agreement"] == 1'
check true q8.json 'r["kl_mean"] < 1e-3 and r["cache_bytes"] < 0.6 * r["full_cache_bytes"]'
check true q4.json '1e-6 < r["kl_mean"] < 0.1 and r["cache_bytes"] < 0.35 * r["full_cache_bytes"]'

# Recall. What the model itself writes next is what it finds most likely; the other answer it cannot guess.
quietly lm generate --prompt "the man went down the river and looked at the" --tokens 8 --json
"$PYTHON" -c '
import json
text = json.load(open(".out"))["text"]
print(json.dumps({"prefix": "the man went down the river and looked", "query": " at the", "answer": text}))
print()
print(json.dumps({"prefix": "the man went down the river and looked", "query": " at the", "answer": "#@"}))' >cases.jsonl
quietly lm recall --cases cases.jsonl --engine exact --json
cp .out report.json
check has report.json cases exact nll_mean
check true report.json 'r["cases"] == 2 and r["exact"] == 1 and r["nll_mean"] > 0'

# Text that goes on: the same seed, the same text; the report of speed is for terminals.
"$PITH" lm generate --prompt "It was the best of times, it was the " --tokens 24 >greedy 2>err
"$PITH" lm generate --prompt "It was the best of times, it was the " --tokens 24 >again 2>>err
cmp greedy again && wc -c <greedy | tr -d ' ' && cat err
quietly lm generate --prompt "It was the best of times, it was the " --tokens 24 --temperature 1 --top-k 20 --seed 3 --ratio 1/2 --json
cp .out one.json
quietly lm generate --prompt "It was the best of times, it was the " --tokens 24 --temperature 1 --top-k 20 --seed 3 --ratio 1/2 --json
cp .out two.json
check has one.json text tokens cache_bytes tokens_per_second
"$PYTHON" -c '
import json
one, two = (json.load(open(name))["text"] for name in ("one.json", "two.json"))
print(one == two, len(one))'

# Nobody asks from beyond the 2048 tokens that the model can read: a longer horizon changes nothing.
for horizon in 748 1024 100; do
  quietly lm perplexity --text text.txt --context 1400 --prefix 1300 --ratio 1/16 --horizon $horizon --json
  cp .out $horizon.json
done
"$PYTHON" -c '
import json
near, end, beyond = (json.load(open(f"{name}.json"))["kl_mean"] for name in (100, 748, 1024))
print("the same" if end == beyond != near else f"not the same: {near} {end} {beyond}")'

# Arrays that the other commands read.
quietly lm dump --text text.txt --context 128 -o arrays
ls arrays
quietly compress --keys arrays/k.npy --values arrays/v.npy --queries arrays/q.npy --rope 10000 --head-weights arrays/head_weights.npy --ratio 1/4 -o s.safetensors
rm -r arrays s.safetensors

# Refusals.
try lm
try lm talk
try lm perplexity --ratio 1/4
try lm perplexity --text text.txt
try lm perplexity --text text.txt --mode stream
try lm perplexity --text text.txt --ratio 1/4 --context 4096
try lm perplexity --text text.txt --ratio 1/4 --context 512 --prefix 512
try lm perplexity --text text.txt --ratio 1/4 --context 2048
try lm perplexity --text none.txt --ratio 1/4
try lm perplexity --text text.txt --ratio 1/4 --model text.txt
try lm recall --ratio 1/4
printf '{"prefix": "a", "query": "b", "answer": "c"}\n{"prefix": "a"}\n' >bad.jsonl
try lm recall --cases bad.jsonl --ratio 1/4
printf '\n{"prefix": "a", \n' >bad.jsonl
try lm recall --cases bad.jsonl --ratio 1/4
try lm generate
try lm generate --prompt a --tokens 4000
try lm dump --text text.txt
try lm dump --text text.txt --context 64 -o text.txt/arrays
# Patterns: what lets all through changes nothing, a window changes little, and every layer can have its own.
quietly lm patterns --text text.txt --context 512 --pattern full --pattern window=64,global=0-3 --pattern "window=8;full" --json
cp .out patterns.json
check has patterns.json patterns[].pattern patterns[].keys_read patterns[].kl_mean patterns[].bits_per_byte
check true patterns.json '[p["kl_mean"] < 1e-9 for p in r["patterns"]] == [True, False, False]'
check true patterns.json 'r["patterns"][0]["share"] == 1 and abs(r["patterns"][1]["keys_read"] - 68) < 1e-9'
try lm patterns --text text.txt --context 512 --pattern window=0
try lm patterns --text text.txt --context 512 --pattern "full;full;full;full;full"
# Chat: a turn a line, empty ones left out; the same lines, the same answers.
printf 'the boat\n\nthe old house\r\n' >lines
quietly lm chat --tokens 8 --json <lines
cp .out chat.json
check has chat.json template turns[].prompt_tokens turns[].tokens turns[].text turns[].tokens_per_second length cache_bytes
check true chat.json '[t["prompt_tokens"] for t in r["turns"]] == [9, 15] and r["length"] == 9 + 15 + 2 * 8 and r["template"] == "plain"'
"$PITH" lm chat --tokens 8 <lines >said 2>err
"$PYTHON" -c '
import json
print(open("said").read() == "".join(t["text"] + "\n" for t in json.load(open("chat.json"))["turns"]), open("err").read() == "")'
