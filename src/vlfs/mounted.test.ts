/** Through a real mount: what needs the kernel's part too. A Python program is the client; strata-fs serves from its own process. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { type TestPlane, withDataPlane } from '../fuse/test-support/with-data-plane.ts';
import { writeTreeIndex } from '../layer/index.ts';

const PROGRAM = String.raw`
import errno, fcntl, mmap, os, sqlite3, stat, sys, time
root = sys.argv[1]
os.chdir(root)
def fails(code, call, *args, **kw):
    try: call(*args, **kw)
    except OSError as e:
        assert e.errno == code, (call, args, e)
        return
    raise AssertionError(('no error', call, args))
def read(p): return open(p, 'rb').read()
def write(p, b):
    with open(p, 'wb') as f: f.write(b)

# A reader of a small file sees what a writer does, one of a large file keeps what it has open; st_ino stays.
before = os.stat('etc/a')
reader = os.open('etc/a', os.O_RDONLY)
assert os.read(reader, 2) == b'sh'
with open('etc/a', 'ab') as f: f.write(b'+more')
assert read('etc/a') == b'shared a+more'
assert os.stat('etc/a').st_ino == before.st_ino and os.stat('etc/a').st_size == 13
assert os.pread(reader, 100, 0) == b'shared a+more'
assert os.fstat(reader).st_ino == before.st_ino
os.close(reader)
second = os.open('etc/a', os.O_RDONLY)
with open('etc/a', 'ab') as f: f.write(b'!')
assert os.pread(second, 100, 0) == b'shared a+more!' and os.fstat(second).st_size == 14
os.close(second)
large = os.open('etc/large', os.O_RDONLY)
with open('etc/large', 'r+b') as f: f.write(b'new')
assert os.pread(large, 3, 0) == b'xxx' and read('etc/large')[:4] == b'newx'
os.close(large)
# Mapped and read, then written: all see it, also those who map it afterwards.
with open('etc/e', 'rb') as f:
    view = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
    assert view[:6] == b'shared'
    with open('etc/e', 'r+b') as g: g.write(b'SHARED')
    assert view[:6] == b'SHARED' and f.read(6) == b'SHARED'
    view.close()
with open('etc/e', 'r+b') as g:
    g.write(b'again')
    g.flush()
    os.fsync(g.fileno())
assert read('etc/e')[:6] == b'againD'

# Changes of attributes through a read-only descriptor, with and without opens.
fd = os.open('etc/b', os.O_RDONLY)
os.fchmod(fd, 0o600)
assert stat.S_IMODE(os.stat('etc/b').st_mode) == 0o600 and stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
os.truncate('etc/b', 3)
assert read('etc/b') == b'sha'
os.utime('etc/b', ns=(1_000_000_001, 2_000_000_003))
assert os.stat('etc/b').st_mtime_ns == 2_000_000_003
os.close(fd)
os.chown('etc/c', 1000, 1001)
assert (os.stat('etc/c').st_uid, os.stat('etc/c').st_gid) == (1000, 1001)

# mmap: of a shared file, then written through.
with open('etc/map', 'rb') as f:
    old = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
with open('etc/map', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    m[0:5] = b'HELLO'
    m.flush()
    m.close()
assert read('etc/map')[:5] == b'HELLO' and old[:5] == b'HELLO'
old.close()
stamp = os.stat('etc/map').st_mtime_ns
time.sleep(0.02)
f = open('etc/map', 'r+b')
m = mmap.mmap(f.fileno(), 0)
f.close()
m[0:5] = b'howdy'
m.flush(); m.close()
assert os.stat('etc/map').st_mtime_ns > stamp, 'a write through memory changes the time'

# Hard links stay one inode.
assert os.stat('etc/h1').st_nlink == 2 and os.path.samefile('etc/h1', 'etc/h2')
with open('etc/h1', 'ab') as f: f.write(b'+')
assert read('etc/h2') == b'hard+' and os.path.samefile('etc/h1', 'etc/h2')
assert os.stat('etc/h2').st_nlink == 2 and os.stat('etc/h1').st_size == 5
os.link('etc/h1', 'etc/h3')
assert os.stat('etc/h2').st_nlink == 3
os.unlink('etc/h1')
assert os.stat('etc/h2').st_nlink == 2

# Unlinked and replaced files live on for who has them open.
f = open('etc/gone', 'r+b')
os.unlink('etc/gone')
f.write(b'still'); f.flush()
assert os.fstat(f.fileno()).st_nlink == 0 and os.pread(f.fileno(), 5, 0) == b'still'
f.close()
f = open('etc/d', 'rb')
write('etc/d.new', b'replacement'); os.rename('etc/d.new', 'etc/d')
assert f.read() == b'shared d' and read('etc/d') == b'replacement'
f.close()

# Directories of the layers move, also below a working directory and an open file.
os.chdir('tree/sub')
inner = open('deep/file', 'rb')
os.rename(os.path.join(root, 'tree'), os.path.join(root, 'moved'))
assert os.getcwd() == os.path.join(root, 'moved/sub'), os.getcwd()
assert read('deep/file') == b'deep' and inner.read() == b'deep'
write('deep/new', b'x')
os.chdir(root)
fails(errno.ENOENT, os.stat, 'tree')
assert sorted(os.listdir('moved/sub/deep')) == ['file', 'new']
fails(errno.ENOTEMPTY, os.rmdir, 'moved/sub/deep')
os.mkdir('tree'); assert os.listdir('tree') == []
os.rmdir('tree')

# Files without names, locks, holes, copies in the kernel.
t = os.open('etc', os.O_TMPFILE | os.O_RDWR, 0o640)
os.write(t, b'anonymous')
os.link('/proc/self/fd/%d' % t, 'etc/named', src_dir_fd=os.open('/', os.O_RDONLY), follow_symlinks=True)
assert read('etc/named') == b'anonymous' and os.stat('etc/named').st_nlink == 1
os.close(t)
a = os.open('etc/lock', os.O_RDWR | os.O_CREAT); b = os.open('etc/lock', os.O_RDWR)
fcntl.flock(a, fcntl.LOCK_EX)
fails(errno.EAGAIN, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.close(a); os.close(b)
assert os.stat('etc/sparse').st_size == 64 << 20 and os.stat('etc/sparse').st_blocks < 1000
with open('etc/sparse', 'r+b') as f:
    f.write(b'begin')
    assert os.lseek(f.fileno(), 4096 * 4, os.SEEK_DATA) == 32 << 20
assert os.stat('etc/sparse').st_blocks < 1000, 'holes stay holes'
src = os.open('etc/big', os.O_RDONLY); dst = os.open('etc/copy', os.O_RDWR | os.O_CREAT)
left = os.fstat(src).st_size
while left > 0: left -= os.copy_file_range(src, dst, left)
assert read('etc/copy') == read('etc/big')
os.posix_fallocate(dst, 0, 8 << 20)
assert os.fstat(dst).st_size == 8 << 20
os.close(src); os.close(dst)

# Extended attributes; the layer's own books stay out of sight.
os.setxattr('etc/c', 'user.note', b'1')
assert os.getxattr('etc/c', 'user.note') == b'1'
names = os.listxattr('etc/c')
assert names == ['user.note'], names
fails(errno.EPERM, os.setxattr, 'etc/c', 'trusted.overlay.opaque', b'y')
fails(errno.ENODATA, os.getxattr, 'etc/c', 'trusted.strata.ino')
fails(errno.EPERM, os.mknod, 'etc/w', stat.S_IFCHR | 0o600, os.makedev(0, 0))

# Modes: umask, set-group-id directories, others' files.
os.umask(0o077)
write('etc/private', b''); assert stat.S_IMODE(os.stat('etc/private').st_mode) == 0o600
os.umask(0o022)
os.mkdir('group'); os.chown('group', 0, 1234); os.chmod('group', 0o2775)
write('group/f', b''); os.mkdir('group/d')
assert os.stat('group/f').st_gid == 1234 and os.stat('group/d').st_gid == 1234
assert os.stat('group/d').st_mode & stat.S_ISGID
os.mkdir('open'); os.chmod('open', 0o777)
pid = os.fork()
if pid == 0:
    code = 0
    try:
        os.setgid(1002); os.setuid(1002)
        write('open/mine', b'm')
        s = os.stat('open/mine')
        assert (s.st_uid, s.st_gid) == (1002, 1002)
        fails(errno.EACCES, write, 'etc/a', b'no')
        fails(errno.EACCES, os.unlink, 'etc/a')
    except BaseException as e:
        print(repr(e), file=sys.stderr); code = 1
    os._exit(code)
assert os.waitpid(pid, 0)[1] == 0

# Names: long, strange, too long.
strange = b'\xff\xfe \n*'
write(strange, b's'); assert strange in os.listdir(b'.')
os.mkdir('n' * 255)
fails(errno.ENAMETOOLONG, os.mkdir, 'n' * 256)
os.mkfifo('etc/fifo'); assert stat.S_ISFIFO(os.stat('etc/fifo').st_mode)
os.symlink('a', 'etc/link'); assert os.readlink('etc/link') == 'a' and os.readlink('etc/s') == 'a'

# A database of a layer is changed in place.
db = sqlite3.connect('etc/db')
db.execute('pragma journal_mode=wal')
db.execute('create table t (x)')
db.executemany('insert into t values (?)', [(i,) for i in range(1000)])
db.commit()
assert db.execute('select count(*) from t').fetchone() == (1000,)
db.close()
assert sqlite3.connect('etc/db').execute('pragma integrity_check').fetchone() == ('ok',)

# fsync of files and directories, and the size of the file system.
os.unlink('etc/s')
for p in ('etc', 'etc/a', 'etc'):
    fd = os.open(p, os.O_RDONLY); os.fsync(fd); os.close(fd)
assert os.statvfs('.').f_blocks > 0 and os.statvfs('.').f_namemax == 255

# Everything can go.
for top, dirs, files in os.walk('.', topdown=False):
    for n in files: os.unlink(os.path.join(top, n))
    for n in dirs:
        p = os.path.join(top, n)
        os.unlink(p) if os.path.islink(p) else os.rmdir(p)
assert os.listdir('.') == [], os.listdir('.')
print('all good')
`;

/** Random reads and writes of one file, by several ways at once, beside a copy in memory (as fsx does). One file is copied up at once, the other by a job. */
const EXERCISER = `
import ctypes, mmap, os, random, sys
path, seed = sys.argv[1], int(sys.argv[2])
rnd = random.Random(seed)
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
MAX = 400_000
shadow = bytearray(open(path, 'rb').read())
fd = os.open(path, os.O_RDWR)
log = []
def grow(n):
    if len(shadow) < n: shadow.extend(bytes(n - len(shadow)))
for i in range(1500):
    op = rnd.choice(['read', 'write', 'append', 'mapread', 'mapwrite', 'truncate', 'punch', 'reopen', 'copy', 'second'])
    at = rnd.randrange(MAX); size = rnd.randrange(1, 20_000)
    log.append((op, at, size))
    if op == 'read':
        assert os.pread(fd, size, at) == shadow[at:at + size], log[-20:]
    elif op == 'write':
        data = rnd.randbytes(size); os.pwrite(fd, data, at); grow(at + size); shadow[at:at + size] = data
    elif op == 'append':
        if len(shadow) > MAX: continue
        a = os.open(path, os.O_WRONLY | os.O_APPEND); data = rnd.randbytes(size % 999 + 1)
        os.write(a, data); os.close(a); shadow += data
    elif op in ('mapread', 'mapwrite') and len(shadow) > 0:
        m = mmap.mmap(fd, len(shadow)); at %= len(shadow); end = min(at + size, len(shadow))
        if op == 'mapread': assert m[at:end] == shadow[at:end], log[-20:]
        else:
            data = rnd.randbytes(end - at); m[at:end] = data; shadow[at:end] = data
            if rnd.random() < 0.3: m.flush()
        m.close()
    elif op == 'truncate':
        os.ftruncate(fd, at) if rnd.random() < 0.5 else os.truncate(path, at)
        del shadow[at:]; grow(at)
    elif op == 'punch':
        assert libc.fallocate(fd, 3, at, size) == 0
        end = min(at + size, len(shadow))
        if at < end: shadow[at:end] = bytes(end - at)
    elif op == 'reopen':
        os.close(fd); fd = os.open(path, os.O_RDWR)
    elif op == 'copy' and len(shadow) > size:
        frm = rnd.randrange(len(shadow) - size)
        if abs(frm - at) < size: continue
        data = bytes(shadow[frm:frm + size])
        n = os.copy_file_range(fd, fd, size, frm, at); assert n == size, (n, size)
        grow(at + size); shadow[at:at + size] = data
    elif op == 'second':
        other = os.open(path, os.O_RDONLY); assert os.pread(other, size, at) == shadow[at:at + size], log[-20:]; os.close(other)
    assert os.fstat(fd).st_size == len(shadow) == os.stat(path).st_size, log[-20:]
os.close(fd)
assert open(path, 'rb').read() == bytes(shadow)
print('same')
`;

async function layer(t: TestPlane): Promise<string> {
  const dir = t.makeDir('repo/one_1');
  const tree = join(dir, 'filesystem');
  mkdirSync(join(tree, 'etc'), { recursive: true });
  mkdirSync(join(tree, 'tree/sub/deep'), { recursive: true });
  writeFileSync(join(tree, 'etc/large'), 'x'.repeat(100_000));
  for (const name of ['a', 'b', 'c', 'd', 'e']) writeFileSync(join(tree, 'etc', name), `shared ${name}`);
  writeFileSync(join(tree, 'etc/map'), 'hello map');
  writeFileSync(join(tree, 'etc/gone'), 'gone');
  writeFileSync(join(tree, 'etc/h1'), 'hard');
  linkSync(join(tree, 'etc/h1'), join(tree, 'etc/h2'));
  writeFileSync(join(tree, 'tree/sub/deep/file'), 'deep');
  writeFileSync(join(tree, 'etc/big'), Buffer.alloc(3 << 20, 'abc'));
  writeFileSync(join(tree, 'etc/db'), '');
  for (const seed of [1, 2])
    writeFileSync(join(tree, `exercise${seed}`), Buffer.alloc(seed * 100_000, 'layer'));
  chmodSync(join(tree, 'etc/a'), 0o644);
  symlinkSync('a', join(tree, 'etc/s'));
  const sparse = openSync(join(tree, 'etc/sparse'), 'w');
  ftruncateSync(sparse, 64 << 20);
  writeSync(sparse, 'data', 32 << 20);
  closeSync(sparse);
  await writeTreeIndex(join(dir, 'index'), tree);
  return dir;
}

test('programs see an ordinary file system', async () => {
  await withDataPlane(
    async (t) => {
      const dir = await layer(t);
      const mountpoint = t.makeDir('mnt');
      const appliance = t.makeDir('appliances/one');
      mkdirSync(join(appliance, 'private'));
      mkdirSync(join(appliance, 'whiteouts'));
      await t.plane.mount({
        id: 'one',
        mountpoint,
        readOnly: false,
        vlfs: {
          name: 'one',
          privateDir: join(appliance, 'private'),
          whiteoutsDir: join(appliance, 'whiteouts'),
          readOnly: false,
          stack: {
            key: 'one',
            levels: [
              {
                kind: 'software',
                id: 'main/one 1',
                treeDir: join(dir, 'filesystem'),
                indexFile: join(dir, 'index'),
                whiteoutsDir: null,
              },
            ],
          },
        },
      });
      const python = (...args: string[]): void => {
        const run = spawnSync('python3', ['-c', ...args], { encoding: 'utf8', timeout: 60_000 });
        assert.equal(run.stderr, '');
        assert.match(run.stdout, /^(all good|same)\n$/);
      };
      for (const seed of ['1', '2']) python(EXERCISER, join(mountpoint, `exercise${seed}`), seed);
      python(PROGRAM, mountpoint);
    },
    { layered: true },
  );
});
