/**
 * A program in a loop of operations that may not be done twice or lost: mkdir, O_EXCL create, append, link, unlink, rename in its kinds, rmdir ... in
 * one directory, whose every result is compared with a model in memory; at the end the tree must equal the model. `node checked-operations.ts DIR SEED
 * MILLISECONDS`; prints the number of operations. Any difference is an error on stderr and status 1.
 */
import assert from 'node:assert/strict';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  rmdirSync,
  symlinkSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import * as sys from '../../src/sys/index.ts';

interface File {
  kind: 'file';
  data: Buffer;
  names: number;
  mode: number;
  ino: number;
}
interface Directory {
  kind: 'directory';
  entries: Map<string, Inode>;
  ino: number;
}
interface Symlink {
  kind: 'symlink';
  target: string;
  names: number;
  ino: number;
}
type Inode = File | Directory | Symlink;

const [dir, seed, ms] = process.argv.slice(2) as [string, string, string];
let state = Number(seed) >>> 0 || 1;
/** xorshift32: the same seed, the same operations. */
function random(below: number): number {
  state ^= state << 13;
  state ^= state >>> 17;
  state ^= state << 5;
  state >>>= 0;
  return state % below;
}
const pick = <T>(list: readonly T[]): T => list[random(list.length)]!;
const NAMES = ['a', 'b', 'c', 'd', 'e', 'shared', 'sub', 'n'.repeat(200)];

function load(path: string): Directory {
  const entries = new Map<string, Inode>();
  for (const name of readdirSync(path)) {
    const at = join(path, name);
    const { ino, mode, nlink } = lstatSync(at);
    if (lstatSync(at).isDirectory()) entries.set(name, load(at));
    else if (lstatSync(at).isSymbolicLink())
      entries.set(name, { kind: 'symlink', target: readlinkSync(at), names: nlink, ino });
    else entries.set(name, { kind: 'file', data: readFileSync(at), names: nlink, mode: mode & 0o7777, ino });
  }
  return { kind: 'directory', entries, ino: lstatSync(path).ino };
}

/** An existing directory, a name in it, and the path of both. */
function place(): { parent: Directory; name: string; path: string } {
  let parent = root;
  let path = dir;
  for (let depth = random(3); depth > 0; depth--) {
    const below = [...parent.entries].filter(([, inode]) => inode.kind === 'directory');
    if (below.length === 0) break;
    const [name, inode] = pick(below);
    parent = inode as Directory;
    path = join(path, name);
  }
  const name = pick(NAMES);
  return { parent, name, path: join(path, name) };
}

/** Runs an operation whose outcome must be `code` (undefined: success). */
function expect<T>(what: string, code: string | undefined, run: () => T): T | undefined {
  let got: string | undefined;
  let value: T | undefined;
  try {
    value = run();
  } catch (error) {
    got = (error as NodeJS.ErrnoException).code ?? String(error);
  }
  assert.equal(got, code, `operation ${count}, ${what}: ${got} in place of ${code}`);
  return value;
}

function raw(result: number): void {
  if (result < 0) throw Object.assign(new Error(), { code: sys.errnoName(result).split(',')[0] });
}

const isBelow = (above: Inode, below: Directory): boolean =>
  above === below ||
  (above.kind === 'directory' && [...above.entries.values()].some((inode) => isBelow(inode, below)));

const OPEN_FILES: { fd: number; file: File }[] = [];

const operations: (() => void)[] = [
  function mkdir() {
    const { parent, name, path } = place();
    const known = parent.entries.has(name);
    expect(`mkdir ${path}`, known ? 'EEXIST' : undefined, () => mkdirSync(path));
    if (!known) parent.entries.set(name, { kind: 'directory', entries: new Map(), ino: lstatSync(path).ino });
  },
  function create() {
    const { parent, name, path } = place();
    const known = parent.entries.has(name);
    const flags = constants.O_CREAT | constants.O_EXCL | constants.O_RDWR;
    const fd = expect(`create ${path}`, known ? 'EEXIST' : undefined, () => openSync(path, flags, 0o640));
    if (known) return;
    const data = Buffer.alloc(random(5000), `${count}.`);
    writeSync(fd!, data);
    const { ino } = fstatSync(fd!);
    const file: File = { kind: 'file', data, names: 1, mode: 0o640, ino };
    parent.entries.set(name, file);
    if (random(2) === 0 && OPEN_FILES.length < 20) OPEN_FILES.push({ fd: fd!, file });
    else closeSync(fd!);
  },
  function append() {
    const { parent, name, path } = place();
    const known = parent.entries.get(name);
    if (known?.kind !== 'file') return;
    const text = `<${count}>`;
    expect(`append ${path}`, undefined, () => appendFileSync(path, text));
    known.data = Buffer.concat([known.data, Buffer.from(text)]);
  },
  function unlink() {
    const { parent, name, path } = place();
    const known = parent.entries.get(name);
    const code = known === undefined ? 'ENOENT' : known.kind === 'directory' ? 'EISDIR' : undefined;
    expect(`unlink ${path}`, code, () => unlinkSync(path));
    if (code !== undefined) return;
    (known as File).names--;
    parent.entries.delete(name);
  },
  function rmdir() {
    const { parent, name, path } = place();
    const known = parent.entries.get(name);
    const code =
      known === undefined
        ? 'ENOENT'
        : known.kind !== 'directory'
          ? 'ENOTDIR'
          : known.entries.size > 0
            ? 'ENOTEMPTY'
            : undefined;
    expect(`rmdir ${path}`, code, () => rmdirSync(path));
    if (code === undefined) parent.entries.delete(name);
  },
  function link() {
    const from = place();
    const to = place();
    const known = from.parent.entries.get(from.name);
    if (known === undefined || known.kind !== 'file') return;
    const code = to.parent.entries.has(to.name) ? 'EEXIST' : undefined;
    expect(`link ${from.path} ${to.path}`, code, () => linkSync(from.path, to.path));
    if (code !== undefined) return;
    known.names++;
    to.parent.entries.set(to.name, known);
  },
  function symlink() {
    const { parent, name, path } = place();
    const code = parent.entries.has(name) ? 'EEXIST' : undefined;
    expect(`symlink ${path}`, code, () => symlinkSync(`to ${count}`, path));
    if (code === undefined)
      parent.entries.set(name, {
        kind: 'symlink',
        target: `to ${count}`,
        names: 1,
        ino: lstatSync(path).ino,
      });
  },
  function rename() {
    const from = place();
    const to = place();
    const source = from.parent.entries.get(from.name);
    const target = to.parent.entries.get(to.name);
    if (source === undefined) {
      expect(`rename ${from.path} ${to.path}`, 'ENOENT', () => renameSync(from.path, to.path));
      return;
    }
    // The kernel compares paths in an order of its own: these outcomes have no one code.
    if (isBelow(source, to.parent) || (target !== undefined && isBelow(target, from.parent))) return;
    let code: string | undefined;
    if (target !== undefined && target !== source) {
      if (source.kind === 'directory' && target.kind !== 'directory') code = 'ENOTDIR';
      else if (source.kind !== 'directory' && target.kind === 'directory') code = 'EISDIR';
      else if (target.kind === 'directory' && target.entries.size > 0) code = 'ENOTEMPTY';
    }
    expect(`rename ${from.path} ${to.path}`, code, () => renameSync(from.path, to.path));
    if (code !== undefined || source === target) return;
    if (target !== undefined && target.kind !== 'directory') target.names--;
    from.parent.entries.delete(from.name);
    to.parent.entries.set(to.name, source);
  },
  function exchange() {
    const from = place();
    const to = place();
    const source = from.parent.entries.get(from.name);
    const target = to.parent.entries.get(to.name);
    if (source === undefined || target === undefined || source === target) return;
    if (isBelow(source, to.parent) || isBelow(target, from.parent)) return;
    expect(`exchange ${from.path} ${to.path}`, undefined, () =>
      raw(sys.renameat2(sys.AT_FDCWD, from.path, sys.AT_FDCWD, to.path, sys.RENAME_EXCHANGE)),
    );
    from.parent.entries.set(from.name, target);
    to.parent.entries.set(to.name, source);
  },
  function renameNoReplace() {
    const from = place();
    const to = place();
    const source = from.parent.entries.get(from.name);
    if (source === undefined || isBelow(source, to.parent)) return;
    const code = to.parent.entries.has(to.name) ? 'EEXIST' : undefined;
    expect(`rename (no replace) ${from.path} ${to.path}`, code, () =>
      raw(sys.renameat2(sys.AT_FDCWD, from.path, sys.AT_FDCWD, to.path, sys.RENAME_NOREPLACE)),
    );
    if (code !== undefined) return;
    from.parent.entries.delete(from.name);
    to.parent.entries.set(to.name, source);
  },
  function attribute() {
    const { parent, name, path } = place();
    const known = parent.entries.get(name);
    if (known?.kind !== 'file') return;
    const fd = openSync(path, constants.O_RDONLY);
    const set = (): void => raw(sys.fsetxattr(fd, 'user.new', Buffer.from('1'), sys.XATTR_CREATE));
    expect(`setxattr ${path}`, undefined, set);
    expect(`setxattr again ${path}`, 'EEXIST', set);
    expect(`removexattr ${path}`, undefined, () => raw(sys.fremovexattr(fd, 'user.new')));
    closeSync(fd);
  },
  function mode() {
    const { parent, name, path } = place();
    const known = parent.entries.get(name);
    if (known?.kind !== 'file') return;
    known.mode = 0o600 | random(0o100);
    expect(`chmod ${path}`, undefined, () => chmodSync(path, known.mode));
    assert.equal(lstatSync(path).mode & 0o7777, known.mode);
  },
  /** Open files, with and without names, stay what they are. */
  function useOpen() {
    if (OPEN_FILES.length === 0) return;
    const at = random(OPEN_FILES.length);
    const { fd, file } = OPEN_FILES[at]!;
    const what = `open file ${file.ino}`;
    const { size, nlink, ino } = expect(what, undefined, () => fstatSync(fd))!;
    assert.deepEqual(
      { size, nlink, ino },
      { size: file.data.length, nlink: file.names, ino: file.ino },
      what,
    );
    const text = Buffer.from(`{${count}}`);
    expect(what, undefined, () => writeSync(fd, text, 0, text.length, file.data.length));
    file.data = Buffer.concat([file.data, text]);
    if (random(3) === 0) expect(what, undefined, () => fsyncSync(fd));
    if (random(3) === 0) {
      const length = random(file.data.length + 1);
      expect(what, undefined, () => ftruncateSync(fd, length));
      file.data = file.data.subarray(0, length);
    }
    const read = Buffer.alloc(file.data.length);
    assert.equal(readSync(fd, read, 0, read.length, 0), read.length, what);
    assert.ok(read.equals(file.data), what);
    if (random(4) === 0) {
      closeSync(fd);
      OPEN_FILES.splice(at, 1);
    }
  },
  function look() {
    const { parent, name, path } = place();
    const known = parent.entries.get(name);
    if (known === undefined) {
      expect(`stat ${path}`, 'ENOENT', () => lstatSync(path));
      return;
    }
    const stat = expect(`stat ${path}`, undefined, () => lstatSync(path))!;
    assert.equal(stat.ino, known.ino, `inode of ${path}`);
    if (known.kind === 'file') {
      assert.equal(stat.nlink, known.names, `links of ${path}`);
      assert.ok(readFileSync(path).equals(known.data), `content of ${path}`);
    }
  },
];

function compare(path: string, model: Directory): void {
  assert.deepEqual(readdirSync(path).sort(), [...model.entries.keys()].sort(), path);
  for (const [name, inode] of model.entries) {
    const at = join(path, name);
    const stat = lstatSync(at);
    assert.equal(stat.ino, inode.ino, `inode of ${at}`);
    if (inode.kind === 'directory') compare(at, inode);
    else {
      assert.equal(stat.nlink, inode.names, `links of ${at}`);
      if (inode.kind === 'symlink') assert.equal(readlinkSync(at), inode.target, at);
      else {
        assert.ok(readFileSync(at).equals(inode.data), `content of ${at}`);
        assert.equal(stat.mode & 0o7777, inode.mode, `mode of ${at}`);
      }
    }
  }
}

let count = 0;
process.umask(0);
const root = load(dir);
const until = Date.now() + Number(ms);
while (Date.now() < until) {
  count++;
  pick(operations)();
}
compare(dir, root);
for (const { fd } of OPEN_FILES) closeSync(fd);
console.log(count);
