/** EROFS images judged by erofs-utils and by the kernel, which mounts every one of them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Name } from '../../base/index.ts';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import * as sys from '../../sys/index.ts';
import { crc32cRaw, xxh32 } from './checksums.ts';
import type { ErofsChild, ErofsInode } from './contract.ts';
import { withImage } from './test-support.ts';
import { writeErofs } from './write-erofs.ts';

const uuid = Buffer.from('00112233445566778899aabbccddeeff', 'hex');
const name = (text: string) => text as Name;
const inode = (mode: number, more: Partial<ErofsInode> = {}): ErofsInode => ({
  mode,
  uid: 0,
  gid: 0,
  mtimeSec: 1_700_000_000,
  mtimeNsec: 0,
  ...more,
});
const child = (text: string, of: ErofsInode): ErofsChild => ({ name: name(text), inode: of });
const directory = (children: ErofsChild[], more: Partial<ErofsInode> = {}) =>
  inode(0o040755, { ...more, children });
const xattrs = (values: Record<string, string>) =>
  new Map(Object.entries(values).map(([key, value]) => [name(key), Buffer.from(value, 'latin1')]));

function fsck(file: string): void {
  execFileSync('fsck.erofs', [file], { stdio: 'pipe' });
}

interface Seen {
  mode: number;
  uid: number;
  gid: number;
  mtime: string;
  nlink: number;
  size: number | null;
  rdev: number;
  target: string | null;
  xattrs: Record<string, string>;
  /** Equal for names of one inode. */
  ino: number;
}

const stat = sys.newStat();

/** Everything in a mounted directory, as the system calls tell it. */
function seen(dirfd: number, path: string, into: Map<string, Seen>): void {
  const entries = sys.readDirectory(dirfd);
  assert.ok(typeof entries !== 'number');
  for (const entry of entries) {
    const at = `${path}/${entry.name}`;
    assert.equal(sys.statAt(dirfd, entry.name, stat), 0, at);
    const { mode, uid, gid, nlink, size, rdev, ino, mtimeSec, mtimeNsec } = stat;
    const type = mode & sys.S_IFMT;
    const list = sys.listxattrAt(dirfd, entry.name);
    const values = (typeof list === 'number' ? [] : sys.splitXattrList(list)).map((key) => {
      const value = sys.getxattrAt(dirfd, entry.name, key);
      assert.ok(typeof value !== 'number', `${at} ${key}`);
      return [key, Buffer.from(value).toString('latin1')] as const;
    });
    const target = type === sys.S_IFLNK ? sys.readlinkat(dirfd, entry.name) : null;
    into.set(at, {
      mode,
      uid,
      gid,
      mtime: `${mtimeSec}.${mtimeNsec}`,
      nlink,
      size: type === sys.S_IFREG ? size : null,
      rdev,
      target: typeof target === 'number' ? `errno ${target}` : target,
      xattrs: Object.fromEntries(values.sort()),
      ino,
    });
    if (type !== sys.S_IFDIR) continue;
    const fd = sys.openat(dirfd, entry.name, sys.O_RDONLY | sys.O_DIRECTORY);
    assert.ok(fd >= 0);
    seen(fd, at, into);
    sys.close(fd);
  }
}

/** What `seen` must find for a tree. */
function expected(root: ErofsInode): Map<string, Omit<Seen, 'ino'>> {
  const links = new Map<ErofsInode, number>();
  const all: [string, ErofsInode][] = [];
  const walk = (of: ErofsInode, path: string): void => {
    for (const { name: text, inode: below } of of.children ?? []) {
      all.push([`${path}/${text}`, below]);
      links.set(below, (links.get(below) ?? 0) + 1);
      if (below.children) walk(below, `${path}/${text}`);
    }
  };
  walk(root, '');
  return new Map(
    all.map(([path, of]) => [
      path,
      {
        mode: of.mode,
        uid: of.uid,
        gid: of.gid,
        mtime: `${of.mtimeSec}.${of.mtimeNsec}`,
        nlink: of.children ? 2 + of.children.filter((one) => one.inode.children).length : links.get(of)!,
        size: (of.mode & sys.S_IFMT) === sys.S_IFREG ? (of.size ?? 0) : null,
        rdev: of.rdev ?? 0,
        target: of.target ?? null,
        xattrs: Object.fromEntries(
          [...(of.xattrs ?? [])]
            .map(([key, value]) => [key, Buffer.from(value).toString('latin1')] as const)
            .sort(),
        ),
      },
    ]),
  );
}

function compare(root: ErofsInode, check: (file: string) => void = fsck): void {
  withImage(writeErofs(root, { uuid }), (mountpoint, file) => {
    check(file);
    const fd = sys.openat(sys.AT_FDCWD, mountpoint, sys.O_RDONLY | sys.O_DIRECTORY);
    const found = new Map<string, Seen>();
    seen(fd, '', found);
    sys.close(fd);
    const inos = new Map<number, number>();
    for (const { ino, nlink, mode } of found.values())
      if ((mode & sys.S_IFMT) !== sys.S_IFDIR && nlink > 1) inos.set(ino, (inos.get(ino) ?? 0) + 1);
    for (const [, one] of found)
      if (inos.has(one.ino)) assert.equal(inos.get(one.ino), one.nlink, 'names of one inode');
    const plain = new Map([...found].map(([path, { ino: _, ...rest }]) => [path, rest]));
    assert.deepEqual(plain, expected(root));
  });
}

test('checksums have the values of their specifications', () => {
  assert.equal(~crc32cRaw(Buffer.from('123456789')) >>> 0, 0xe3069283);
  assert.equal(xxh32(Buffer.from(''), 0), 0x02cc5d05);
  assert.equal(xxh32(Buffer.from('abc'), 0), 0x32d153ff);
  assert.equal(xxh32(Buffer.from('Nobody inspects the spammish repetition'), 0), 0xe2293b2f);
});

test('every kind of file, at the limits of the format', () => {
  const hard = inode(0o104755, { size: 4097, mtimeSec: -5, mtimeNsec: 999_999_999, uid: 70_000 });
  const large = xattrs({ 'user.large': 'x'.repeat(65_535), 'user.empty': '' });
  const acl =
    '\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\x05\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff';
  compare(
    directory([
      child('hard', hard),
      child('a', directory([child('link', hard), child('empty', directory([]))], { mode: 0o043777 })),
      child('-', inode(0o100000, { size: 0 })),
      child('!', inode(0o100644, { size: 2 ** 40 + 1, gid: 2 ** 32 - 2 })),
      child('8TiB', inode(0o100644, { size: 2 ** 43 })),
      child('more', inode(0o100644, { size: 2 ** 43 + 1 })),
      child('future', inode(0o100644, { size: 1, mtimeSec: 2 ** 34, mtimeNsec: 1 })),
      child('y'.repeat(255), inode(0o120777, { target: name('t'.repeat(4095)) })),
      child('short', inode(0o120777, { target: name('\xff\n') })),
      child('tail', inode(0o120777, { target: name('t'.repeat(2048)) })),
      child('null', inode(0o020666, { rdev: sys.encodeDev(1, 3) })),
      child('disk', inode(0o060660, { rdev: sys.encodeDev(259, 70_000) })),
      child('fifo', inode(0o010600)),
      child('socket', inode(0o140700)),
      child('\x01\xfe', inode(0o100644, { size: 1, xattrs: large })),
      child('same', inode(0o100644, { size: 1, xattrs: large })),
      child('acl', inode(0o100755, { size: 1, xattrs: xattrs({ 'system.posix_acl_access': acl }) })),
      child(
        'overlay',
        inode(0o100644, {
          size: 10,
          xattrs: xattrs({
            'trusted.overlay.metacopy': '',
            'trusted.overlay.redirect': '/a/b',
            'security.capability': '\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0',
          }),
        }),
      ),
    ]),
  );
});

test('attributes in great number and size, behind the inode and shared', () => {
  const many = (count: number, bytes: number, salt: string) =>
    xattrs(
      Object.fromEntries(Array.from({ length: count }, (_, i) => [`user.${salt}${i}`, salt.repeat(bytes)])),
    );
  const file = (values: ErofsInode['xattrs']) => inode(0o100600, { size: 1, xattrs: values });
  compare(
    directory([
      child('inline', file(many(250, 1000, 'i'))),
      child('one', file(many(300, 40, 's'))),
      child('two', file(many(300, 40, 's'))),
      child('long', file(xattrs({ [`trusted.${'n'.repeat(247)}`]: 'v', [`user.${'n'.repeat(250)}`]: '' }))),
      child('directory', directory([child('f', inode(0o100644))], { xattrs: many(20, 900, 'd') })),
      child('link', inode(0o120777, { target: name('t'), xattrs: xattrs({ 'trusted.t': 't' }) })),
      child('null', inode(0o020666, { rdev: sys.encodeDev(1, 3), xattrs: xattrs({ 'security.s': 's' }) })),
    ]),
  );
});

test('times before 1970 and after 2106 in most inodes, and in few', () => {
  for (const mtimeSec of [-1, -(2 ** 40), 2 ** 31, 2 ** 33]) {
    const time = { mtimeSec, mtimeNsec: 999_999_999 };
    const rest = [0, 2 ** 32].map((sec) => child(`${sec}`, inode(0o100644, { mtimeSec: sec })));
    compare(directory([...['a', 'b', 'c'].map((text) => child(text, inode(0o100644, time))), ...rest], time));
  }
});

test('1,900 directories in one another; 70,000 directories in one; 70,000 names of one file', () => {
  let deep = directory([child('end', inode(0o100644))]);
  for (let i = 0; i < 1900; i++) deep = directory([child('d', deep)]);
  // fsck.erofs goes down by recursion and does not come so far.
  compare(deep, () => {});
  const linked = inode(0o100644, { size: 5 });
  const all = [null, linked].map((one) =>
    directory(Array.from({ length: 70_000 }, (_, n) => child(`${n}`, one ?? directory([])))),
  );
  withImage(
    writeErofs(directory([child('directories', all[0]!), child('names', all[1]!)]), { uuid }),
    (mountpoint, file) => {
      fsck(file);
      for (const [path, nlink] of [
        ['directories', 70_002],
        ['directories/69999', 2],
        ['names/69999', 70_000],
      ] as const) {
        assert.equal(sys.statAt(sys.AT_FDCWD, `${mountpoint}/${path}`, stat), 0);
        assert.equal(stat.nlink, nlink);
      }
    },
  );
});

test('a directory of 100,000 names, and lookups in it', () => {
  const children = Array.from({ length: 100_000 }, (_, i) =>
    child(`${(i * 2654435761) % 2 ** 32}-${'n'.repeat(i % 40)}`, inode(0o100600, { size: i })),
  );
  withImage(writeErofs(directory([child('d', directory(children))]), { uuid }), (mountpoint, file) => {
    fsck(file);
    const fd = sys.openat(sys.AT_FDCWD, `${mountpoint}/d`, sys.O_RDONLY | sys.O_DIRECTORY);
    for (const { name: text, inode: of } of children.slice(0, 3000)) {
      assert.equal(sys.statAt(fd, text, stat), 0, text);
      assert.equal(stat.size, of.size);
    }
    assert.equal(sys.statAt(fd, '5-missing', stat), -sys.E.NOENT);
    const entries = sys.readDirectory(fd);
    sys.close(fd);
    assert.ok(typeof entries !== 'number');
    assert.deepEqual(entries.map((one) => one.name).sort(), children.map((one) => one.name as string).sort());
  });
});

test('any tree is what it was', () => {
  const fileName = fc
    .string({
      unit: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)),
      minLength: 1,
      maxLength: 40,
    })
    .filter((text) => !text.includes('/') && text !== '.' && text !== '..');
  const attributes = fc.record({
    mode: fc.integer({ min: 0, max: 0o7777 }),
    uid: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 2 ** 32 - 2 })),
    gid: fc.constantFrom(0, 100, 65_535, 65_536),
    mtimeSec: fc.oneof(fc.constant(1_700_000_000), fc.integer({ min: -(2 ** 40), max: 2 ** 40 })),
    mtimeNsec: fc.constantFrom(0, 1, 999_999_999),
    xattrs: fc.dictionary(
      fc.constantFrom(
        'user.a',
        'user.long-name-of-an-attribute',
        'trusted.overlay.redirect',
        'trusted.b',
        'security.x',
      ),
      fc.string({ unit: 'binary-ascii', maxLength: 300 }),
      { maxKeys: 4 },
    ),
  });
  const file = fc
    .tuple(attributes, fc.nat({ max: 2 ** 31 - 1 }))
    .map(([a, size]) => ({ ...a, mode: a.mode | 0o100000, size }));
  const symlink = fc
    .tuple(attributes, fc.string({ unit: 'binary-ascii', minLength: 1, maxLength: 5000 }))
    .map(([a, text]) => ({ ...a, mode: 0o120777, target: text.replaceAll('\0', '-').slice(0, 4095) }));
  const special = fc
    .tuple(
      attributes,
      fc.constantFrom(0o010000, 0o020000, 0o060000, 0o140000),
      fc.nat({ max: 0xfff }),
      fc.nat({ max: 0xfffff }),
    )
    .map(([a, type, major, minor]) => {
      const isDevice = type === 0o020000 || type === 0o060000;
      return { ...a, mode: a.mode | type, rdev: isDevice ? sys.encodeDev(major, minor) : 0 };
    });
  /** Further names: of which inode, in which directory. */
  const links = fc.array(fc.tuple(fc.nat(), fc.nat(), fileName), { maxLength: 8 });
  const { tree } = fc.letrec<{ tree: unknown; node: unknown }>((tie) => ({
    node: fc.oneof({ maxDepth: 4, depthSize: 'medium' }, file, symlink, special, tie('tree')),
    tree: fc
      .tuple(
        attributes,
        fc.uniqueArray(fc.tuple(fileName, tie('node')), { selector: ([text]) => text, maxLength: 60 }),
      )
      .map(([a, below]) => ({ ...a, mode: a.mode | 0o040000, below })),
  }));
  const build = (of: Record<string, unknown>): ErofsInode => {
    // Attributes of users are for files and directories only.
    const kept = Object.entries(of['xattrs'] as Record<string, string>).filter(
      ([key]) => [0o04, 0o10].includes((of['mode'] as number) >> 12) || !key.startsWith('user.'),
    );
    const made = { ...of, xattrs: xattrs(Object.fromEntries(kept)) } as unknown as ErofsInode;
    const below = of['below'] as [string, Record<string, unknown>][] | undefined;
    if (below) made.children = below.map(([text, one]) => child(text, build(one)));
    return made;
  };
  fc.assert(
    fc.property(tree, links, (one, more) => {
      const root = build(one as Record<string, unknown>);
      addLinks(root, more);
      compare(root);
    }),
    randomRuns(40),
  );
});

function addLinks(root: ErofsInode, links: [number, number, string][]): void {
  const directories: ErofsInode[] = [];
  const others: ErofsInode[] = [];
  const walk = (of: ErofsInode): void => {
    (of.children ? directories : others).push(of);
    for (const below of of.children ?? []) walk(below.inode);
  };
  walk(root);
  for (const [which, where, text] of links) {
    const into = directories[where % directories.length]!;
    if (others.length === 0 || into.children!.some((one) => one.name === text)) continue;
    into.children = [...into.children!, child(text, others[which % others.length]!)];
  }
}

test('dump.erofs reads the superblock; the same tree gives the same bytes', () => {
  const tree = () => directory([child('b', inode(0o100644, { size: 3 })), child('a', inode(0o100644))]);
  const image = writeErofs(tree(), { uuid, volumeName: 'strata' });
  assert.deepEqual(image, writeErofs(tree(), { uuid, volumeName: 'strata' }));
  withImage(image, (_, file) => {
    const said = execFileSync('dump.erofs', ['-s', file], { encoding: 'utf8' });
    assert.match(said, /sb_csum mtime/);
    assert.match(said, /00112233-4455-6677-8899-aabbccddeeff/);
    assert.match(said, /inode count:\s+3\b/);
    const damaged = readFileSync(file);
    damaged[1024 + 40] = 1;
    assert.throws(() => withImage(damaged, () => {}), /refuses/);
  });
});

test('36,000 files in a second or so', () => {
  const tree = directory(
    Array.from({ length: 400 }, (_, d) =>
      child(
        `package-${d}`,
        directory(
          Array.from({ length: 90 }, (_, f) =>
            child(
              `file-${f}.so`,
              inode(0o100644, {
                size: f * 1000,
                mtimeSec: 1_600_000_000 + d,
                xattrs: xattrs({
                  'trusted.overlay.metacopy': '',
                  'trusted.overlay.redirect': `/main/package-${d}_1.2.3/filesystem/usr/lib/package-${d}/file-${f}.so`,
                }),
              }),
            ),
          ),
        ),
      ),
    ),
  );
  const before = process.cpuUsage();
  const image = writeErofs(tree, { uuid });
  const { user, system } = process.cpuUsage(before);
  // Processor time, since other tests run beside this one; what grows with the square of the entries takes minutes.
  assert.ok(user + system < 15_000_000, `${user + system} us`);
  withImage(image, (_, file) => fsck(file));
});

test('what the format cannot hold is refused', () => {
  const write = (children: ErofsChild[]) => () => writeErofs(directory(children), { uuid });
  const one = inode(0o100644);
  const shared = directory([]);
  assert.throws(write([child('a', one), child('a', one)]), { code: 'BAD_FORMAT' });
  assert.throws(write([child('a', shared), child('b', shared)]), { code: 'BAD_FORMAT' });
  for (const bad of ['', '.', '..', 'a/b', 'a\0', 'n'.repeat(256)])
    assert.throws(write([child(bad, one)]), { code: 'BAD_FORMAT' }, JSON.stringify(bad));
  const wrong = [
    inode(0o120777),
    inode(0o120777, { target: name('a\0b') }),
    inode(0o120777, { target: name('t'.repeat(4096)) }),
    inode(0o644),
    inode(0o1_100_644),
    inode(0o100644, { size: -1 }),
    inode(0o100644, { size: 2 ** 53 }),
    inode(0o100644, { uid: 2 ** 32 }),
    inode(0o100644, { gid: -1 }),
    inode(0o100644, { mtimeNsec: 1e9 }),
    inode(0o100644, { mtimeSec: Number.NaN }),
    inode(0o020644, { rdev: 2 ** 32 }),
  ];
  for (const one of wrong)
    assert.throws(write([child('a', one)]), { code: 'BAD_FORMAT' }, JSON.stringify(one));
  assert.throws(write([child('a', inode(0o100644, { xattrs: xattrs({ 'system.nfs4_acl': '' }) }))]), {
    code: 'UNSUPPORTED',
  });
  assert.throws(write([child('a', inode(0o100644, { xattrs: xattrs({ 'user.a': 'x'.repeat(65_536) }) }))]), {
    code: 'LIMIT',
  });
  const full = Array.from({ length: 5 }, (_, i) => [`user.${i}`, 'x'.repeat(i === 0 ? 60_000 : 990)]);
  const tooMany = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`user.n${i}`, 'x'.repeat(990)]));
  writeErofs(directory([child('a', inode(0o100644, { xattrs: xattrs(Object.fromEntries(full)) }))]), {
    uuid,
  });
  assert.throws(write([child('a', inode(0o100644, { xattrs: xattrs(tooMany) }))]), { code: 'LIMIT' });
});
