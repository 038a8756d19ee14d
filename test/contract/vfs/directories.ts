/** Directories: making and removing them, listing them while they change, very many entries. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { Topic } from './behaviour.ts';
import { fails, python } from './behaviour.ts';

const PLANTED = 300;

function plant(dir: string): void {
  for (const sub of ['d', 'empty', 'deep/a/b']) fs.mkdirSync(join(dir, sub), { recursive: true });
  for (let i = 0; i < PLANTED; i++) fs.writeFileSync(join(dir, `d/p${i}`), '');
  fs.writeFileSync(join(dir, 'deep/a/b/f'), '');
}

/** Opens sys.argv[1] as `d` by libc, for Python. */
const TELLDIR = `
import ctypes, os, sys
c = ctypes.CDLL(None, use_errno=True)
class Dirent(ctypes.Structure):
    _fields_ = [('ino', ctypes.c_uint64), ('off', ctypes.c_int64), ('reclen', ctypes.c_uint16), ('type', ctypes.c_uint8), ('name', ctypes.c_char * 256)]
c.opendir.restype = ctypes.c_void_p; c.readdir.restype = ctypes.POINTER(Dirent); c.telldir.restype = ctypes.c_long
c.readdir.argtypes = c.telldir.argtypes = c.rewinddir.argtypes = c.closedir.argtypes = [ctypes.c_void_p]
c.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
d = c.opendir(sys.argv[1].encode())
def rest():
    names = []
    while True:
        e = c.readdir(d)
        if not e: return names
        names.append(e.contents.name)
`;

export const directories: Topic = {
  name: 'directories',
  plant,
  behaviours: {
    'made, removed, made again'(dir) {
      fails('EEXIST', () => fs.mkdirSync(join(dir, 'd')));
      fails('ENOTEMPTY', () => fs.rmdirSync(join(dir, 'd')));
      fs.rmdirSync(join(dir, 'empty'));
      fails('ENOENT', () => fs.statSync(join(dir, 'empty')));
      fs.mkdirSync(join(dir, 'empty'));
      fs.writeFileSync(join(dir, 'empty/f'), '');
      fails('ENOTEMPTY', () => fs.rmdirSync(join(dir, 'empty')));
      fs.rmSync(join(dir, 'deep'), { recursive: true });
      fs.mkdirSync(join(dir, 'deep'));
      assert.deepEqual(fs.readdirSync(join(dir, 'deep')), []);
      fs.mkdirSync(join(dir, 'deep/a'));
      assert.deepEqual(fs.readdirSync(join(dir, 'deep/a')), []);
      fs.rmSync(join(dir, 'd'), { recursive: true });
      fs.writeFileSync(join(dir, 'd'), 'now a file');
      fs.unlinkSync(join(dir, 'd'));
      fs.mkdirSync(join(dir, 'd'));
      assert.deepEqual(fs.readdirSync(join(dir, 'd')), []);
    },
    'entries deleted and made again show once'(dir) {
      for (let i = 0; i < PLANTED; i += 3) fs.unlinkSync(join(dir, `d/p${i}`));
      for (let i = 0; i < PLANTED; i += 6) fs.writeFileSync(join(dir, `d/p${i}`), 'again');
      for (let i = 1; i < PLANTED; i += 3) fs.appendFileSync(join(dir, `d/p${i}`), 'changed');
      const listed = fs.readdirSync(join(dir, 'd'));
      assert.equal(new Set(listed).size, listed.length);
      assert.equal(listed.length, PLANTED - 50);
      assert.equal(fs.readFileSync(join(dir, 'd/p0'), 'utf8'), 'again');
    },
    'a listing in small steps is whole while the directory changes'(dir) {
      const handle = fs.opendirSync(join(dir, 'd'), { bufferSize: 4 });
      const seen: string[] = [];
      for (let i = 0; ; i++) {
        const entry = handle.readSync();
        if (entry === null) break;
        seen.push(entry.name);
        fs.writeFileSync(join(dir, `d/new${i}`), '');
        if (i % 2 === 0) fs.unlinkSync(join(dir, `d/new${i}`));
        if (i === 20) fs.unlinkSync(join(dir, 'd/p7'));
      }
      handle.closeSync();
      const planted = seen.filter((name) => name.startsWith('p'));
      assert.equal(new Set(seen).size, seen.length, 'no name twice');
      assert.ok(planted.length >= PLANTED - 1);
    },
    'rm -r while listing removes all'(dir) {
      const handle = fs.opendirSync(join(dir, 'd'), { bufferSize: 8 });
      for (let entry = handle.readSync(); entry !== null; entry = handle.readSync())
        fs.unlinkSync(join(dir, 'd', entry.name));
      handle.closeSync();
      fs.rmdirSync(join(dir, 'd'));
    },
    'telldir, seekdir, rewinddir'(dir) {
      python(
        `${TELLDIR}places = []
names = []
while True:
    places.append(c.telldir(d))
    e = c.readdir(d)
    if not e: break
    names.append(e.contents.name)
assert len(names) == 302, len(names)
for i in (0, 1, 2, 3, 150, 299, 301):
    c.seekdir(d, places[i])
    assert rest() == names[i:], i
os.unlink(os.path.join(sys.argv[1], 'p5')); open(os.path.join(sys.argv[1], 'fresh'), 'w').close()
c.rewinddir(d)
again = rest()
assert b'fresh' in again and b'p5' not in again and len(again) == 302
c.closedir(d)
`,
        join(dir, 'd'),
      );
    },
    'positions stay valid while the directory changes: what stays comes once'(dir) {
      python(
        `${TELLDIR}places = []
names = []
while True:
    places.append(c.telldir(d))
    e = c.readdir(d)
    if not e: break
    names.append(e.contents.name)
here = lambda name: os.path.join(sys.argv[1].encode(), name)
files = lambda some: [name for name in some if name not in (b'.', b'..')]
for name in files(names[40:200:3]): os.unlink(here(name))
for i in range(100): open(here(b'late%d' % i), 'w').close()
for name in files(names[202:240:2]): os.rename(here(name), here(name + b'.moved'))
for i in (0, 1, 2, 39, 40, 41, 120, 201):
    c.seekdir(d, places[i])
    after = rest()
    assert len(set(after)) == len(after), 'an entry came twice'
    stay = set(name for name in files(names[i:]) if os.path.lexists(here(name)))
    assert stay <= set(after), (i, stay - set(after))
    assert not set(after) & set(files(names[:i])), (i, 'an entry before the position came')
c.closedir(d)
`,
        join(dir, 'd'),
      );
    },
    'entries tell their kind'(dir) {
      fs.symlinkSync('x', join(dir, 'link'));
      const kinds = fs
        .readdirSync(dir, { withFileTypes: true })
        .map((e) => [e.name, e.isDirectory(), e.isSymbolicLink()]);
      assert.deepEqual(kinds.sort(), [
        ['d', true, false],
        ['deep', true, false],
        ['empty', true, false],
        ['link', false, true],
      ]);
      for (const entry of fs.readdirSync(join(dir, 'd'), { withFileTypes: true })) assert.ok(entry.isFile());
    },
    'times change with the entries, and with nothing else'(dir) {
      const d = join(dir, 'd');
      const age = () => fs.utimesSync(d, 1000, 1000);
      const young = () => fs.statSync(d).mtimeMs > 1_000_000;
      age();
      fs.appendFileSync(join(d, 'p1'), 'x');
      fs.chmodSync(join(d, 'p2'), 0o600);
      fs.readdirSync(d);
      assert.equal(young(), false, 'a change of a file is none of its directory');
      const changes: (() => void)[] = [
        () => fs.writeFileSync(join(d, 'new'), ''),
        () => fs.unlinkSync(join(d, 'p3')),
        () => fs.mkdirSync(join(d, 'sub')),
        () => fs.rmdirSync(join(d, 'sub')),
        () => fs.linkSync(join(d, 'p4'), join(d, 'linked')),
        () => fs.symlinkSync('x', join(d, 'link')),
        () => fs.renameSync(join(d, 'p5'), join(d, 'renamed')),
        () => fs.renameSync(join(d, 'renamed'), join(dir, 'away')),
      ];
      for (const [i, change] of changes.entries()) {
        age();
        change();
        assert.equal(young(), true, `change ${i}`);
      }
    },
  },
};

/** For one directory of 100,000 entries, planted once. */
export const MANY = 100_000;

export function plantMany(dir: string): void {
  for (let i = 0; i < MANY; i++) fs.closeSync(fs.openSync(join(dir, `entry-${i}`), 'w'));
}

/** A directory of MANY entries is listed wholly, once each, while it changes; lookups in it work. */
export function manyEntries(dir: string): void {
  const handle = fs.opendirSync(dir, { bufferSize: 1000 });
  const seen = new Set<string>();
  for (let i = 0; ; i++) {
    const entry = handle.readSync();
    if (entry === null) break;
    assert.equal(seen.has(entry.name), false, entry.name);
    seen.add(entry.name);
    if (i % 100 === 0) {
      fs.writeFileSync(join(dir, `new-${i}`), '');
      fs.renameSync(join(dir, `new-${i}`), join(dir, `newer-${i}`));
    }
    if (i < MANY && i % 1000 === 0) fs.unlinkSync(join(dir, `entry-${i}`));
  }
  handle.closeSync();
  for (let i = 0; i < MANY; i++) {
    if (i % 1000 !== 0) assert.ok(seen.has(`entry-${i}`), `entry-${i}`);
  }
  const listed = fs.readdirSync(dir);
  assert.equal(new Set(listed).size, listed.length);
  assert.equal(listed.filter((name) => name.startsWith('entry-')).length, MANY - MANY / 1000);
  assert.ok(fs.statSync(join(dir, 'entry-99999')).isFile());
  fails('ENOENT', () => fs.statSync(join(dir, 'entry-0')));
}
