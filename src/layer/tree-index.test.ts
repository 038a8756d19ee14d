/** The tree index: against a real tree and find(1), against a model, and with damaged bytes. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  chownSync,
  mkdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { FormatError, type Name } from '../base/index.ts';
import { randomRuns } from '../base/random-runs.test-support.ts';
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG } from '../sys/index.ts';
import type { TreeIndex } from './contract.ts';
import {
  buildTreeIndex,
  openTreeIndex,
  type TreeEntry,
  treeIndexFromBytes,
  writeTreeIndex,
} from './index.ts';
import { ACL, assertSameLines, setXattr, sh, temporaryDir } from './test-support.ts';

const dir = temporaryDir();

const LETTERS = new Map([
  [S_IFDIR, 'd'],
  [S_IFLNK, 'l'],
  [S_IFREG, 'f'],
  [S_IFIFO, 'p'],
  [S_IFCHR, 'c'],
  [S_IFBLK, 'b'],
]);

/** One line for each entry as find -printf would give it. */
function described(index: TreeIndex): string[] {
  const lines: string[] = [];
  for (let entry = 0; entry < index.entryCount; entry++) {
    const mode = index.mode(entry);
    const type = mode & S_IFMT;
    const letter = LETTERS.get(type);
    const fields = [letter, (mode & 0o7777).toString(8), index.uid(entry), index.gid(entry)];
    if (type !== S_IFDIR) fields.push(index.nlink(entry));
    if (type === S_IFREG) fields.push(index.size(entry));
    fields.push(`${index.mtimeSec(entry)}.${String(index.mtimeNsec(entry)).padStart(9, '0')}`);
    fields.push(index.symlinkTarget(entry), index.path(entry));
    lines.push(fields.join('|'));
  }
  return lines.sort();
}

function found(tree: string): string[] {
  const time = '%T@';
  const of = (type: string, middle: string): string =>
    `-type ${type} -printf '%y|%m|%U|%G|${middle}${time}|%l|%P\\0'`;
  const all = [of('d', ''), of('f', '%n|%s|'), ...['l', 'p', 'c', 'b'].map((t) => of(t, '%n|'))].join(' -o ');
  return sh(`find . ${all}`, tree)
    .split('\0')
    .filter(Boolean)
    .map((line) => line.replace(/(\d+\.\d{9})\d/, '$1'))
    .sort();
}

test('the index of a real tree says what find says', async () => {
  const tree = join(dir, 'real');
  mkdirSync(tree);
  sh(
    `mkdir -p a/b/c empty; printf hello > a/one; ln a/one a/b/two; ln a/one three; ln -s ../nowhere a/b/link; mknod null c 1 3; mknod disk b 259 1000
     mkfifo pipe; printf x > setuid; chmod 4755 setuid; chmod 1777 a; chmod 2755 a/b; chown 1000:65534 a/b/c; touch -d '1969-12-31 23:59:58.5 UTC' old; touch -d '2262-01-01' future
     truncate -s 20M sparse; printf x | dd of=sparse bs=1 seek=9000000 conv=notrunc status=none; printf bytes > $'\\xff\\xfe name'; touch $'new\\nline';
     head -c 3000000 /dev/urandom > big; for i in $(seq 300); do echo $i > a/b/c/file-$i; done`,
    tree,
  );
  setXattr(join(tree, 'a/one'), 'user.note', 'hi');
  setXattr(join(tree, 'pipe'), 'system.posix_acl_access', ACL);
  const file = join(dir, 'real.index');
  const index = await writeTreeIndex(file, tree);
  const reopened = openTreeIndex(file);
  assertSameLines(described(reopened), found(tree));
  assertSameLines(described(index), found(tree));

  const at = (path: string): number => index.find(path);
  assert.equal(index.digest(at('a/b/two')), createHash('sha256').update('hello').digest('hex'));
  assert.equal(
    index.digest(at('big')),
    createHash('sha256')
      .update(readFileSync(join(tree, 'big')))
      .digest('hex'),
  );
  assert.deepEqual([...index.xattrs(at('three'))], [['user.note', new Uint8Array(Buffer.from('hi'))]]);
  assert.deepEqual([...index.xattrs(at('pipe'))], [['system.posix_acl_access', new Uint8Array(ACL)]]);
  assert.equal(index.hasXattrs(at('empty')), false);
  assert.equal(index.blocks(at('sparse')), statSync(join(tree, 'sparse')).blocks);
  assert.equal(index.rdev(at('disk')), statSync(join(tree, 'disk')).rdev);
  assert.equal(index.nlink(at('a')), 3);
  // The ring of hard links visits each name once, in entry order, and the leader is the lowest.
  const ring = [at('three')];
  for (let next = index.hardLinkNext(ring[0]!); next !== ring[0]; next = index.hardLinkNext(next))
    ring.push(next);
  assert.deepEqual(ring.map((entry) => index.path(entry)).sort(), ['a/b/two', 'a/one', 'three']);
  assert.ok(ring.every((entry) => index.hardLinkLeader(entry) === Math.min(...ring)));
  for (const missing of ['b', 'a/', 'a/onee', 'a/on', 'a/one/x', 'a/b/link/x', '\xff']) {
    const wanted = missing === 'a/' ? at('a') : -1;
    assert.equal(at(missing), wanted, missing);
  }
  // Twice the same tree: the same bytes.
  await writeTreeIndex(join(dir, 'again.index'), tree);
  assert.deepEqual(readFileSync(file), readFileSync(join(dir, 'again.index')));
});

test('an overlay tree keeps whiteouts and overlay attributes; others do not', async () => {
  const tree = join(dir, 'overlay');
  sh(`mkdir -p ${tree}/opaque; mknod ${tree}/gone c 0 0`, dir);
  setXattr(join(tree, 'opaque'), 'trusted.overlay.opaque', 'y');
  const overlay = await writeTreeIndex(join(dir, 'o.index'), tree, { overlay: true });
  assert.equal(overlay.rdev(overlay.find('gone')), 0);
  assert.deepEqual(
    overlay.xattrs(overlay.find('opaque')).get('trusted.overlay.opaque' as Name),
    new Uint8Array([0x79]),
  );
  const plain = await writeTreeIndex(join(dir, 'p.index'), tree);
  assert.equal(plain.hasXattrs(plain.find('opaque')), false);
});

interface Model {
  entries: TreeEntry[];
}

const nameArbitrary = fc
  .string({
    unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)),
    minLength: 1,
    maxLength: 12,
  })
  .filter((name) => !name.includes('/') && name !== '.' && name !== '..');

/** Trees of random entries, every parent a directory. */
const modelArbitrary: fc.Arbitrary<Model> = fc
  .array(
    fc.record({
      name: nameArbitrary,
      parent: fc.nat(),
      kind: fc.constantFrom('directory', 'file', 'symlink', 'link', 'device'),
      number: fc.nat(),
      time: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }),
      nsec: fc.nat(999_999_999),
      size: fc.maxSafeNat(),
      value: fc.uint8Array({ maxLength: 40 }),
    }),
    { maxLength: 60 },
  )
  .map((choices) => {
    const root: TreeEntry = {
      path: '' as Name,
      mode: S_IFDIR | 0o755,
      uid: 0,
      gid: 0,
      size: 0,
      mtimeSec: 0,
      mtimeNsec: 0,
    };
    const entries = [root];
    const directories = [''];
    const files: TreeEntry[] = [];
    const used = new Set<string>();
    for (const c of choices) {
      const parent = directories[c.parent % directories.length]!;
      const path = (parent === '' ? c.name : `${parent}/${c.name}`) as Name;
      if (used.has(path)) continue;
      used.add(path);
      const common = { path, uid: c.number % 70000, gid: c.number % 3, mtimeSec: c.time, mtimeNsec: c.nsec };
      if (c.kind === 'directory') {
        directories.push(path);
        entries.push({ ...common, mode: S_IFDIR | 0o755, size: 0 });
      } else if (c.kind === 'symlink') {
        const linkTarget = `../${c.name}` as Name;
        entries.push({ ...common, mode: S_IFLNK | 0o777, size: linkTarget.length, linkTarget });
      } else if (c.kind === 'device') {
        entries.push({ ...common, mode: 0o020600, size: 0, rdev: c.number % 2 ** 32 });
      } else if (c.kind === 'link' && files.length > 0) {
        const leader = files[c.number % files.length]!;
        leader.inode ??= leader.path;
        entries.push({ ...leader, path });
      } else {
        const digest = createHash('sha256').update(c.name).digest('hex') as TreeEntry['digest'] & string;
        const xattrs = new Map([[`user.${c.name}` as Name, c.value]]);
        const file: TreeEntry = { ...common, mode: S_IFREG | 0o644, size: c.size, digest, xattrs };
        files.push(file);
        entries.push(file);
      }
    }
    return { entries };
  });

test('any tree comes back as it was written, and the order of the entries does not matter', () => {
  fc.assert(
    fc.property(modelArbitrary, ({ entries }) => {
      const bytes = buildTreeIndex(entries);
      assert.deepEqual(buildTreeIndex([...entries].reverse()), bytes);
      const index = treeIndexFromBytes(bytes);
      assert.equal(index.entryCount, entries.length);
      for (const wanted of entries) {
        const entry = index.find(wanted.path);
        assert.equal(index.path(entry), wanted.path);
        assert.equal(index.mode(entry), wanted.mode);
        assert.equal(index.uid(entry), wanted.uid);
        assert.equal(index.mtimeSec(entry), wanted.mtimeSec);
        assert.equal(index.mtimeNsec(entry), wanted.mtimeNsec);
        assert.equal(index.symlinkTarget(entry), wanted.linkTarget ?? '');
        assert.equal(index.digest(entry), wanted.digest ?? null);
        assert.equal(index.rdev(entry), wanted.rdev ?? 0);
        if ((wanted.mode & S_IFMT) === S_IFREG) assert.equal(index.size(entry), wanted.size);
        assert.deepEqual([...index.xattrs(entry)], [...(wanted.xattrs ?? [])]);
        const names = entries.filter((e) => wanted.inode !== undefined && e.inode === wanted.inode).length;
        if ((wanted.mode & S_IFMT) !== S_IFDIR) assert.equal(index.nlink(entry), Math.max(1, names));
      }
      for (let entry = 1; entry < index.entryCount; entry++) {
        const parent = index.parent(entry);
        assert.ok(
          entry >= index.firstChild(parent) && entry < index.firstChild(parent) + index.childCount(parent),
        );
      }
    }),
    randomRuns(200),
  );
});

/** Uses every getter on every entry; only FormatErrors may come out, and it must end. */
function exercise(bytes: Uint8Array): 'refused' | 'read' {
  let index: TreeIndex;
  try {
    index = treeIndexFromBytes(bytes);
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    return 'refused';
  }
  const getters = [
    'firstChild',
    'childCount',
    'parent',
    'name',
    'path',
    'mode',
    'uid',
    'gid',
    'size',
    'blocks',
    'mtimeSec',
    'mtimeNsec',
    'rdev',
    'nlink',
    'hardLinkLeader',
    'hardLinkNext',
    'symlinkTarget',
    'digest',
    'hasXattrs',
    'xattrs',
  ] as const;
  for (let entry = 0; entry < index.entryCount; entry++) {
    for (const getter of getters) {
      try {
        const value = index[getter](entry);
        if (['parent', 'hardLinkLeader', 'hardLinkNext'].includes(getter)) {
          assert.ok((value as number) >= 0 && (value as number) < index.entryCount);
        }
      } catch (error) {
        assert.ok(error instanceof FormatError, `${getter}: ${String(error)}`);
      }
    }
    try {
      index.find('usr/bin/x');
      index.child(entry, 'x' as Name);
    } catch (error) {
      assert.ok(error instanceof FormatError, String(error));
    }
  }
  return 'read';
}

test('cut off anywhere it is refused; with any byte changed it never crashes', () => {
  const sample = fc
    .sample(modelArbitrary, { numRuns: 30, seed: 7 })
    .sort((a, b) => b.entries.length - a.entries.length)[0]!;
  const bytes = buildTreeIndex(sample.entries);
  assert.equal(exercise(bytes), 'read');
  for (let length = 0; length < bytes.length; length++)
    assert.equal(exercise(bytes.subarray(0, length)), 'refused');
  for (let at = 0; at < bytes.length; at++) {
    const before = bytes[at]!;
    for (const value of [before ^ 0x80, before ^ 1, 0xff]) {
      if (value === before) continue;
      bytes[at] = value;
      const outcome = exercise(bytes);
      if (at < 192) assert.equal(outcome, 'refused', `header byte ${at}`);
    }
    bytes[at] = before;
  }
});

test('who may write to an index file may cut it while it is in use: what was opened stays', () => {
  const file = join(dir, 'cut');
  const root: TreeEntry = {
    path: '' as Name,
    mode: S_IFDIR | 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
  };
  const bytes = buildTreeIndex([
    root,
    ...Array.from({ length: 2000 }, (_, i) => ({ ...root, path: `directory-${i}` as Name })),
  ]);
  assert.ok(bytes.length > 1 << 16, 'large enough to be mapped');
  for (const [uid, mode] of [
    [1000, 0o644],
    [0, 0o664],
  ] as const) {
    writeFileSync(file, bytes);
    chownSync(file, uid, 0);
    chmodSync(file, mode);
    const index = openTreeIndex(file);
    truncateSync(file, 0);
    assert.ok(index.child(0, 'directory-1999' as Name) > 0);
  }
});

test('opening does not depend on the size', () => {
  const root: TreeEntry = {
    path: '' as Name,
    mode: S_IFDIR | 0o755,
    uid: 0,
    gid: 0,
    size: 0,
    mtimeSec: 0,
    mtimeNsec: 0,
  };
  const written = (directories: number): string => {
    const entries = [root];
    for (let d = 0; d < directories; d++) {
      entries.push({ ...root, path: `directory-${d}` as Name });
      for (let f = 0; f < 250; f++)
        entries.push({ ...root, path: `directory-${d}/file-${f}` as Name, mode: S_IFREG | 0o644, size: f });
    }
    const file = join(dir, `${directories}.index`);
    writeFileSync(file, buildTreeIndex(entries));
    return file;
  };
  const timeOf = (file: string): number => {
    const start = performance.now();
    const index = openTreeIndex(file);
    assert.equal(index.size(index.find('directory-3/file-249')), 249);
    return performance.now() - start;
  };
  const [small, large] = [written(4), written(400)];
  const best = { small: Number.POSITIVE_INFINITY, large: Number.POSITIVE_INFINITY };
  // What else the machine does only adds to it.
  for (let i = 0; i < 20 || (i < 1000 && best.large >= 10 * best.small); i++) {
    best.small = Math.min(best.small, timeOf(small));
    best.large = Math.min(best.large, timeOf(large));
  }
  assert.ok(best.large < 10 * best.small, `${best.small} ms for 1,000 entries, ${best.large} for 100,000`);
});
