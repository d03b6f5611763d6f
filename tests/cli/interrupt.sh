# Ctrl-C: exit code 130 and no partial file. Enough work for the signal to arrive in the middle of it.
"$PYTHON" -c '
import numpy
r = numpy.random.default_rng(1)
for name in "kvq": numpy.save(name + ".npy", r.standard_normal((8, 8, 3000, 64)).astype("f4"))'
"$PYTHON" - <<'END'
import os, signal, subprocess, time
process = subprocess.Popen([os.environ["PITH"], "compress", "--keys", "k.npy", "--values", "v.npy", "--queries", "q.npy",
                            "--points", "1000", "-o", "s.safetensors"])
time.sleep(2)
process.send_signal(signal.SIGINT)
print("exit", process.wait())
END
ls | grep -v npy
