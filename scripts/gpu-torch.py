# One arm of scripts/try-gpu.mjs: pages of files into memory of a GPU as a program with torch reads them: pread into pinned memory and an asynchronous copy, double-buffered.
#   gpu-torch.py PAGE-BYTES FILE...      prints one line of JSON; exits with 3 where there is no torch with CUDA.
import json, os, sys, time
try:
    import torch
except ImportError:
    sys.exit(3)
if not torch.cuda.is_available():
    sys.exit(3)
size, files = int(sys.argv[1]), sys.argv[2:]
pinned = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
views = [memoryview(tensor.numpy()) for tensor in pinned]
events = [torch.cuda.Event() for _ in range(2)]
target = torch.zeros((len(files), size), dtype=torch.uint8, device='cuda')
for file in files:
    fd = os.open(file, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
torch.cuda.synchronize()
start = time.perf_counter()
for i, file in enumerate(files):
    fd = os.open(file, os.O_RDONLY)
    slot = i % 2
    if i >= 2:
        events[slot].synchronize()
    at = 0
    while at < size:
        moved = os.preadv(fd, [views[slot][at:]], at)
        if moved <= 0:
            sys.exit('the file is short')
        at += moved
    os.close(fd)
    target[i].copy_(pinned[slot], non_blocking=True)
    events[slot].record()
torch.cuda.synchronize()
seconds = time.perf_counter() - start
sum_ = 1469598103934665603
for byte in bytes(target[0].cpu().numpy()):
    sum_ = ((sum_ ^ byte) * 1099511628211) & (2 ** 64 - 1)
print(json.dumps({'bytes': size * len(files), 'seconds': seconds, 'sum': f'{sum_:016x}'}))
