"""
What the kernel and open files hold for a program, checked once more after each line on stdin: locks by fcntl and flock that others must not get, a
shared mapping, an unlinked file, a directory that is being read, an inotify watch, timers that interrupt. `held-state.py DIR`; prints a
line when it has begun and after each check.
"""
import ctypes, fcntl, mmap, os, signal, struct, sys

directory = sys.argv[1]
os.chdir(directory)
libc = ctypes.CDLL(None, use_errno=True)


def locked_out(path, posix):
    """Whether another process is refused the lock."""
    child = os.fork()
    if child == 0:
        fd = os.open(path, os.O_RDWR)
        try:
            (fcntl.lockf if posix else fcntl.flock)(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os._exit(0)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


by_fcntl = os.open('by-fcntl', os.O_RDWR | os.O_CREAT)
fcntl.lockf(by_fcntl, fcntl.LOCK_EX)
by_flock = os.open('by-flock', os.O_RDWR | os.O_CREAT)
fcntl.flock(by_flock, fcntl.LOCK_EX)
mapped = os.open('mapped', os.O_RDWR | os.O_CREAT)
os.ftruncate(mapped, 65536)
memory = mmap.mmap(mapped, 65536)
unlinked = os.open('unlinked', os.O_RDWR | os.O_CREAT)
os.unlink('unlinked')
os.mkdir('listed')
for i in range(3000):
    os.close(os.open('listed/%d' % i, os.O_CREAT | os.O_WRONLY))
listing = os.scandir('listed')
listed = [next(listing).name for _ in range(10)]
os.mkdir('watched')
watch = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watch, b'watched', 0x100) >= 0  # IN_CREATE
# A waiter gets the lock in the end.
waiter = os.fork()
if waiter == 0:
    fd = os.open('by-flock', os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os._exit(0)
ticks = 0


def tick(*_):
    global ticks
    ticks += 1


signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
print('up', flush=True)

for count, line in enumerate(sys.stdin, 1):
    # The first access after a kill is by the mapping.
    memory[4096 * (count % 16)] = count % 256
    memory.flush()
    assert os.pread(mapped, 1, 4096 * (count % 16))[0] == count % 256
    assert locked_out('by-fcntl', True) and locked_out('by-flock', False)
    os.pwrite(unlinked, b'x' * count, 0)
    assert os.fstat(unlinked).st_size == count and os.fstat(unlinked).st_nlink == 0
    listed += [next(listing).name for _ in range(10)]
    os.close(os.open('watched/%d' % count, os.O_CREAT | os.O_WRONLY))
    events = os.read(watch, 4096)
    length = struct.unpack_from('iIII', events)[3]
    assert events[16:16 + length].rstrip(b'\0') == b'%d' % count, events
    assert os.waitpid(waiter, os.WNOHANG)[0] == 0
    print(count, flush=True)

signal.setitimer(signal.ITIMER_REAL, 0)
listed += [entry.name for entry in listing]
assert len(listed) == 3000 and len(set(listed)) == 3000, len(listed)
fcntl.flock(by_flock, fcntl.LOCK_UN)
assert os.waitpid(waiter, 0)[1] == 0
assert ticks > 0
