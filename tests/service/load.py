"""Reads a secret without a pause until SIGTERM, and writes what it saw as JSON.

load.py RESULT READERS FIELD: FIELD holds "<number>:<sha256 of the number>", so that every torn, mixed or short value
shows. One handle per reader is opened at the start and must go on giving what it gave.
"""
import errno, hashlib, json, os, signal, sys, threading, time

result, readers, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
stop = threading.Event()
lock = threading.Lock()
seen = {"reads": 0, "errors": [], "pause_max_s": 0.0, "numbers": set(), "stuck": 0}


def whole(value):
    number, _, digest = value.partition(b":")
    return hashlib.sha256(number).hexdigest().encode() == digest


def note(what):
    with lock:
        seen["errors"].append(f"{time.monotonic():.3f} {what}")


def read(descriptor):
    return os.pread(descriptor, 4096, 0)


def reader():
    held = os.open(path, os.O_RDONLY)
    first = read(held)
    reads = 0
    pause = 0.0
    numbers = set()
    while not stop.is_set():
        begun = time.monotonic()
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                value = read(descriptor)
            finally:
                os.close(descriptor)
            if whole(value):
                numbers.add(int(value.partition(b":")[0]))
            else:
                note(f"torn: {value!r}")
            if reads % 16 == 0 and read(held) != first:
                note("the open file changed")
            reads += 1
        except OSError as error:
            note(errno.errorcode.get(error.errno, str(error.errno)))
            time.sleep(0.02)
        pause = max(pause, time.monotonic() - begun)
    with lock:
        seen["reads"] += reads
        seen["numbers"] |= numbers
        seen["pause_max_s"] = max(seen["pause_max_s"], pause)


threads = [threading.Thread(target=reader, daemon=True) for _ in range(readers)]
signal.signal(signal.SIGTERM, lambda *_: stop.set())
for thread in threads:
    thread.start()
print("reading", flush=True)
while not stop.wait(0.2):
    pass
until = time.monotonic() + 20
for thread in threads:
    thread.join(max(0, until - time.monotonic()))
seen["stuck"] = sum(thread.is_alive() for thread in threads)
seen["numbers"] = sorted(seen["numbers"])
with open(result + ".new", "w") as file:
    json.dump(seen, file)
os.rename(result + ".new", result)
os._exit(0)
