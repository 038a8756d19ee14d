/** flock, POSIX record locks and locks of open file descriptions, between processes and across changes of the file. Made by Python. */
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { Topic } from './behaviour.ts';
import { python } from './behaviour.ts';

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), 'lock me');
  fs.writeFileSync(join(dir, 'large'), Buffer.alloc(300_000));
  fs.mkdirSync(join(dir, 'd'));
}

const HEAD = `
import errno, fcntl, os, struct, sys
path = sys.argv[1]
def busy(call, *args):
    try: call(*args)
    except OSError as e: return e.errno in (errno.EAGAIN, errno.EACCES)
    return False
def elsewhere(f):
    pid = os.fork()
    if pid == 0:
        try: os._exit(0 if f() else 1)
        except BaseException as e:
            print(repr(e)); sys.stdout.flush(); os._exit(2)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, 256), status
    return status == 0
EX, SH, NB, UN = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB, fcntl.LOCK_UN
`;

export const locks: Topic = {
  name: 'locks',
  plant,
  behaviours: {
    'flock: shared ones agree, an exclusive one is alone'(dir) {
      for (const name of ['f', 'd']) {
        python(
          `${HEAD}
a = os.open(path, os.O_RDONLY); b = os.open(path, os.O_RDONLY)
fcntl.flock(a, SH | NB); fcntl.flock(b, SH | NB)
assert busy(fcntl.flock, a, EX | NB)
fcntl.flock(b, UN)
fcntl.flock(a, EX | NB)
assert busy(fcntl.flock, b, SH | NB)
assert elsewhere(lambda: busy(fcntl.flock, os.open(path, os.O_RDONLY), SH | NB))
os.close(a)
fcntl.flock(b, EX | NB)
`,
          join(dir, name),
        );
      }
    },
    'flock: a reader and a writer of the file see each other'(dir) {
      for (const name of ['f', 'large']) {
        python(
          `${HEAD}
reader = os.open(path, os.O_RDONLY)
fcntl.flock(reader, EX | NB)
writer = os.open(path, os.O_RDWR)
assert busy(fcntl.flock, writer, EX | NB)
os.pwrite(writer, b'x', 0)
assert elsewhere(lambda: busy(fcntl.flock, os.open(path, os.O_RDWR), EX | NB))
fcntl.flock(reader, UN)
fcntl.flock(writer, EX | NB)
`,
          join(dir, name),
        );
      }
    },
    'fcntl: ranges, owners, GETLK'(dir) {
      python(
        `${HEAD}
a = os.open(path, os.O_RDWR)
fcntl.lockf(a, EX | NB, 10, 0)
fcntl.lockf(a, SH | NB, 10, 20)
def other():
    b = os.open(path, os.O_RDWR)
    assert busy(fcntl.lockf, b, SH | NB, 1, 5)
    fcntl.lockf(b, EX | NB, 5, 10)
    fcntl.lockf(b, SH | NB, 5, 22)
    assert busy(fcntl.lockf, b, EX | NB, 5, 22)
    got = fcntl.fcntl(b, fcntl.F_GETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))
    kind, whence, start, length, pid = struct.unpack('hhqqi4x', got)
    return (kind, start, length, pid) == (fcntl.F_WRLCK, 0, 10, os.getppid())
assert elsewhere(other)
fcntl.lockf(a, UN, 0, 0)
assert not elsewhere(lambda: busy(fcntl.lockf, os.open(path, os.O_RDWR), EX | NB))
fcntl.lockf(a, EX | NB)
os.close(os.open(path, os.O_RDONLY))
assert not elsewhere(lambda: busy(fcntl.lockf, os.open(path, os.O_RDWR), EX | NB)), 'any close ends them'
`,
        join(dir, 'f'),
      );
    },
    'fcntl: a lock of a reader stays in the way of writers'(dir) {
      for (const name of ['f', 'large']) {
        python(
          `${HEAD}
reader = os.open(path, os.O_RDONLY)
fcntl.lockf(reader, SH | NB)
assert elsewhere(lambda: busy(fcntl.lockf, os.open(path, os.O_RDWR), EX | NB))
`,
          join(dir, name),
        );
      }
    },
    'locks of open file descriptions'(dir) {
      python(
        `${HEAD}
OFD = 37
lock = lambda fd, kind: fcntl.fcntl(fd, OFD, struct.pack('hhqqi4x', kind, 0, 0, 0, 0))
a = os.open(path, os.O_RDWR); b = os.open(path, os.O_RDWR)
lock(a, fcntl.F_WRLCK)
assert busy(lock, b, fcntl.F_WRLCK)
os.close(a)
lock(b, fcntl.F_WRLCK)
`,
        join(dir, 'f'),
      );
    },
    'a waiter gets the lock when it is free, and when its holder dies'(dir) {
      python(
        `${HEAD}
import signal, time
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    a = os.open(path, os.O_RDWR)
    fcntl.flock(a, EX); fcntl.lockf(a, EX)
    os.write(w, b'x'); time.sleep(100)
os.read(r, 1)
b = os.open(path, os.O_RDWR)
assert busy(fcntl.flock, b, EX | NB)
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.setitimer(signal.ITIMER_REAL, 0.05)
fcntl.flock(b, EX); fcntl.lockf(b, EX)
os.waitpid(pid, 0)
`,
        join(dir, 'f'),
      );
    },
    'a lease and a file in use as a program'(dir) {
      fs.copyFileSync('/bin/sleep', join(dir, 'program'));
      fs.chmodSync(join(dir, 'program'), 0o755);
      python(
        `
import errno, os, subprocess, sys
child = subprocess.Popen([sys.argv[1], '100'])
try:
    try:
        os.open(sys.argv[1], os.O_RDWR)
        sys.exit('opened')
    except OSError as e: assert e.errno == errno.ETXTBSY, e
finally: child.kill(); child.wait()
os.close(os.open(sys.argv[1], os.O_RDWR))
`,
        join(dir, 'program'),
      );
    },
  },
};
