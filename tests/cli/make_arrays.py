"""make_arrays.py FOLDER - small arrays, good and bad, for the cases of the command line."""
import os
import sys

import numpy as np

folder = sys.argv[1]
random = np.random.default_rng(7)


def save(name, array):
    np.save(os.path.join(folder, name + ".npy"), array)


def normal(*shape):
    return random.standard_normal(shape).astype(np.float32)


def unit(*shape):
    array = normal(*shape)
    return array / np.linalg.norm(array, axis=-1, keepdims=True)


# One head of unit vectors; two layers of two key heads and four query heads; an odd head size.
save("k", unit(200, 16)), save("v", unit(200, 16)), save("q", 4 * unit(150, 16)), save("new", 4 * unit(40, 16))
save("k4", normal(2, 2, 200, 8)), save("v4", normal(2, 2, 200, 6))
save("q4", normal(2, 4, 200, 8)), save("new4", normal(2, 4, 30, 8))
save("w4", np.array([[1.0, 0.01], [0.01, 0.0]], np.float32)), save("w_wrong", np.ones((3, 2), np.float32))
save("w_negative", np.array([[1.0, -1.0], [0.0, 0.0]], np.float32))
save("k16", normal(200, 16).astype(np.float16)), save("kf", np.asfortranarray(normal(200, 16)))
save("odd_k", normal(64, 7)), save("odd_v", normal(64, 7)), save("odd_q", normal(64, 7))
save("big_k", 3 * normal(200, 16))

# Bad values and shapes.
nan = unit(200, 16)
nan[17, 3] = np.nan
save("nan", nan)
infinite = unit(200, 16)
infinite[5, 0] = np.inf
save("inf", infinite)
save("no_rows", np.zeros((0, 16), np.float32)), save("no_queries", np.zeros((0, 16), np.float32))
save("short_v", unit(150, 16)), save("wide_q", unit(20, 12)), save("line", unit(16))
save("three_heads", normal(2, 3, 20, 8)), save("five", normal(1, 1, 1, 4, 4)), save("words", np.array(["a", "b"]))
save("complex", np.zeros((4, 4), np.complex64)), save("whole", np.zeros((200, 16), np.int64))

# Files that are cut short, too long, or lie.
good = open(os.path.join(folder, "k.npy"), "rb").read()


def write(name, data):
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)


write("empty.npy", b"")
write("cut_header.npy", good[:40])
write("cut_data.npy", good[:-100])
write("long_data.npy", good + b"\0" * 8)
write("magic.npy", b"\x94NUMPY" + good[6:])
write("version.npy", good[:6] + b"\x09\x00" + good[8:])
write("lying_shape.npy", good.replace(b"(200, 16)", b"(900, 16)"))
write("huge_shape.npy", good.replace(b"(200, 16), }      ", b"(99999999999, 16)}"))
write("no_dict.npy", good.replace(b"'descr'", b"'descx'"))
write("text.npy", b"this is not an array\n")
