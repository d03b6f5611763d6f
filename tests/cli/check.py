"""check.py WHAT ARGUMENT... - properties that a transcript cannot show; silent where they hold."""
import json
import sys

import numpy as np


def fail(sentence):
    print("failed:", sentence)
    sys.exit(1)


def attention(q, k, v, causal=False, window=0, globals=(), blocks=None):
    """Softmax attention in double; key heads are shared by groups of query heads. blocks: one mask, or one a head."""
    lead = q.shape[:-2]
    q, k, v = (a.astype(np.float64).reshape((-1,) + a.shape[-2:]) for a in (q, k, v))
    layers = lead[0] if len(lead) == 2 else 1
    query_heads, kv_heads = len(q) // layers, len(k) // layers
    out = np.zeros(q.shape[:2] + v.shape[-1:])
    n, m = k.shape[1], q.shape[1]
    position = np.arange(n - m, n)[:, None]
    for i in range(len(q)):
        head = i // query_heads * kv_heads + i % query_heads // (query_heads // kv_heads)
        logit = q[i] @ k[head].T / np.sqrt(q.shape[-1])
        keys = np.arange(n)
        seen = np.ones((m, n), bool)
        if window:
            seen &= np.abs(keys - position) < window
        if blocks is not None:
            mask = blocks.reshape((-1,) + blocks.shape[-2:])[i if blocks.ndim > 2 else 0]
            rows, columns = m // mask.shape[0], n // mask.shape[1]
            seen &= np.kron(mask, np.ones((rows, columns))).astype(bool)
        seen |= np.isin(keys, globals) | np.isin(position, globals)
        if causal:
            seen &= keys <= position
        logit = np.where(seen, logit, -np.inf)
        weight = np.exp(logit - logit.max(axis=1, keepdims=True))
        out[i] = weight @ v[head] / weight.sum(axis=1, keepdims=True)
    return out.reshape(lead + out.shape[1:])


def attends(answers, q, k, v, *words):
    """attends ANSWERS Q K V [causal] [window=N] [globals=I,J] [blocks=M.npy]: the answers are exact attention."""
    given = dict(word.split("=") for word in words if "=" in word)
    globals = [int(word) for word in given.get("globals", "").split(",") if word]
    blocks = np.load(given["blocks"]) if "blocks" in given else None
    a, want = np.load(answers), attention(np.load(q), np.load(k), np.load(v), "causal" in words,
                                          int(given.get("window", 0)), globals, blocks)
    if a.shape != want.shape or a.dtype != np.float32:
        fail(f"shape {a.shape} and type {a.dtype}, not {want.shape} and float32")
    if not np.abs(a - want).max() < 1e-5:
        fail(f"off by {np.abs(a - want).max()}")


def near(a, b, tolerance):
    """near A B TOLERANCE: mean L2 distance of rows, at most the tolerance and not zero."""
    error = np.linalg.norm(np.load(a) - np.load(b), axis=-1).mean()
    if not 0 < error <= float(tolerance):
        fail(f"mean distance {error}")


def has(file, *keys):
    """has FILE KEY...: one JSON object of schema 1 with these keys (a.b: inside; a[].b: in all of a list)."""
    with open(file) as opened:
        report = json.load(opened)
    if report.get("schema") != 1:
        fail("no schema 1")
    for key in keys:
        found = [report]
        for part in key.split("."):
            name = part.removesuffix("[]")
            if not all(name in one for one in found):
                fail(f"no {key}")
            found = [one[name] for one in found]
            if part.endswith("[]"):
                found = [one for many in found for one in many]
                if not found:
                    fail(f"{key} is empty")


def true(file, expression):
    """true FILE EXPRESSION: a Python expression over the report r holds."""
    with open(file) as opened:
        report = json.load(opened)
    if not eval(expression, {"r": report, "all": all, "abs": abs}):
        fail(f"{expression} in {json.dumps(report)[:2000]}")


def flip(source, target, at):
    """flip SOURCE TARGET AT: a copy with one bit changed; AT may be negative."""
    data = bytearray(open(source, "rb").read())
    data[int(at)] ^= 1
    open(target, "wb").write(data)


globals()[sys.argv[1]](*sys.argv[2:])
