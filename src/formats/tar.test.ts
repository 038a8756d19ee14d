/** The tar reader and writer against GNU tar: every dialect, sparse format, odd name and attribute, in both directions. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { type Name, StrataError } from '../base/index.ts';
import { randomRuns } from '../base/random-runs.test-support.ts';
import type { ArchiveEntry, ArchiveItem, EntryType } from './contract.ts';
import { readTar } from './tar-reader.ts';
import { writeTar } from './tar-writer.ts';
import { readItems, readWhole, setXattr, stream, withDirectory } from './test-support.ts';

function run(dir: string, ...command: string[]): Buffer {
  return execFileSync(command[0]!, command.slice(1), { cwd: dir, maxBuffer: 2 ** 28 });
}

/** struct vfs_cap_data: revision 2, effective; cap_net_raw. */
const CAP_NET_RAW = '0100000200200000000000000000000000000000';

const LONG = 'd'.repeat(90);
const VERY_LONG = `${LONG}/${'e'.repeat(200)}/${'f'.repeat(180)}`;

/** A tree with everything that `dialect` can hold. */
function makeTree(dir: string, longNames: boolean): void {
  mkdirSync(join(dir, 'usr/bin'), { recursive: true });
  writeFileSync(join(dir, 'usr/bin/tool'), 'tool\n'.repeat(3000), { mode: 0o755 });
  run(dir, 'chmod', '4751', 'usr/bin/tool');
  run(dir, 'chown', '1234:5678', 'usr/bin/tool');
  run(dir, 'ln', 'usr/bin/tool', 'usr/bin/tool2');
  writeFileSync(join(dir, 'empty'), '');
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from([0x66, 0xff, 0xe4, 0x20])]), 'raw name');
  symlinkSync('../no/where', join(dir, 'link'));
  run(dir, 'mkfifo', 'pipe');
  run(dir, 'mknod', 'null', 'c', '1', '300');
  run(dir, 'mknod', 'disk', 'b', '259', '7');
  mkdirSync(join(dir, 'sticky'));
  run(dir, 'chmod', '3777', 'sticky');
  utimesSync(join(dir, 'empty'), 5, 1234567890);
  if (!longNames) return;
  mkdirSync(join(dir, VERY_LONG), { recursive: true });
  writeFileSync(join(dir, VERY_LONG, 'file'), 'deep');
  run(dir, 'ln', `${VERY_LONG}/file`, `${VERY_LONG}/zhard`);
  symlinkSync('t/'.repeat(200), join(dir, 'longlink'));
}

/** What find prints for each path of a tree, in the words of `describe`. */
function findTree(dir: string): string[] {
  const format = '%P\\t%y\\t%m\\t%U\\t%G\\t%s\\t%Ts\\t%l\\t%n\\n';
  const out = run(dir, 'find', '.', '-mindepth', '1', '-printf', format).toString('latin1');
  return out.trimEnd().split('\n').sort();
}

const LETTERS: Record<EntryType, string> = {
  file: 'f',
  hardlink: 'f',
  directory: 'd',
  symlink: 'l',
  char: 'c',
  block: 'b',
  fifo: 'p',
};

/** The entries as find would print them; hard links take the data of what they link to. */
function describe(items: { entry: ArchiveEntry }[]): string[] {
  const inode = new Map<string, ArchiveEntry>();
  const names = new Map<ArchiveEntry, number>();
  for (const { entry } of items) {
    const target = entry.type === 'hardlink' ? inode.get(entry.linkTarget!)! : entry;
    inode.set(entry.path, target);
    names.set(target, (names.get(target) ?? 0) + 1);
  }
  return items
    .filter(({ entry }) => entry.path !== '')
    .map(({ entry }) => {
      const e = inode.get(entry.path)!;
      const link = e.type === 'symlink' ? e.linkTarget! : '';
      const size = e.type === 'symlink' ? link.length : e.sizeBytes;
      const mode = e.type === 'symlink' ? '777' : e.mode.toString(8);
      return [entry.path, LETTERS[e.type], mode, e.uid, e.gid, size, e.mtimeSec, link, names.get(e)].join(
        '\t',
      );
    })
    .sort();
}

/** find's lines without the sizes and link counts of directories, which archives do not have. */
function plain(lines: string[]): string[] {
  return lines
    .map((line) => {
      const f = line.split('\t');
      if (f[1] === 'd') f[5] = f[8] = '-';
      return f.join('\t');
    })
    .sort();
}

for (const dialect of ['v7', 'oldgnu', 'gnu', 'ustar', 'pax']) {
  test(`GNU tar's ${dialect} archives are read exactly`, () =>
    withDirectory(async (dir) => {
      const hasDevices = dialect !== 'v7';
      makeTree(dir, ['oldgnu', 'gnu', 'pax'].includes(dialect));
      if (!hasDevices) run(dir, 'rm', 'null', 'disk', 'pipe');
      const tar = run(dir, 'tar', '-c', `--format=${dialect}`, '--numeric-owner', '.');
      for (const piece of [100, 1 << 20]) {
        const items = await readItems(readTar(stream(tar, piece)));
        assert.deepEqual(plain(describe(items)), plain(findTree(dir)));
        const tool = items.find((i) => i.entry.type === 'file' && i.entry.path.startsWith('usr/bin/tool'))!;
        assert.ok(tool.bytes.equals(readFileSync(join(dir, 'usr/bin/tool'))));
        const device = items.find((i) => i.entry.path === 'null')?.entry;
        if (hasDevices) assert.deepEqual([device?.devMajor, device?.devMinor], [1, 300]);
      }
    }));
}

test('sparse files in every form GNU tar writes', () =>
  withDirectory(async (dir) => {
    const fd = openSync(join(dir, 'sparse'), 'w');
    for (let i = 0; i < 40; i++) writeSync(fd, `extent ${i}`, i * 1_000_000 + 65536);
    ftruncateSync(fd, 50_000_000);
    closeSync(fd);
    const hole = openSync(join(dir, 'hole'), 'w');
    ftruncateSync(hole, 123_456_789);
    closeSync(hole);
    const whole = readFileSync(join(dir, 'sparse'));
    for (const form of ['oldgnu', 'gnu', 'pax 0.0', 'pax 0.1', 'pax 1.0']) {
      const [format, version] = form.split(' ');
      const flags = version === undefined ? [] : [`--sparse-version=${version}`];
      const tar = run(dir, 'tar', '-c', '-S', `--format=${format}`, ...flags, 'sparse', 'hole');
      assert.ok(tar.length < 1_000_000, form);
      const [sparse, empty] = await readItems(readTar(stream(tar)));
      assert.deepEqual([sparse!.entry.path, sparse!.entry.sizeBytes], ['sparse', whole.length], form);
      const rebuilt = Buffer.alloc(whole.length);
      let pos = 0;
      for (const { offset, length } of sparse!.entry.sparse!) {
        sparse!.bytes.copy(rebuilt, offset, pos, pos + length);
        pos += length;
      }
      assert.equal(pos, sparse!.bytes.length);
      assert.ok(rebuilt.equals(whole), form);
      assert.deepEqual(
        [empty!.entry.sizeBytes, empty!.entry.sparse, empty!.bytes.length],
        [123_456_789, [], 0],
        form,
      );
    }
  }));

test('extended attributes and fractions of seconds come out of PAX archives', () =>
  withDirectory(async (dir) => {
    writeFileSync(join(dir, 'ping'), 'x');
    setXattr(join(dir, 'ping'), 'user.binary', '000aff3d');
    setXattr(join(dir, 'ping'), 'security.capability', CAP_NET_RAW);
    run(dir, 'touch', '-d', '@-1.25', 'ping');
    const tar = run(dir, 'tar', '-c', '--format=pax', '--xattrs', '--xattrs-include=*', 'ping');
    const [item] = await readItems(readTar(stream(tar)));
    const { xattrs, mtimeSec, mtimeNsec } = item!.entry;
    assert.deepEqual(Buffer.from(xattrs!.get('user.binary' as Name)!).toString('hex'), '000aff3d');
    assert.equal(Buffer.from(xattrs!.get('security.capability' as Name)!).toString('hex'), CAP_NET_RAW);
    assert.deepEqual([mtimeSec, mtimeNsec], [-2, 750_000_000]);
  }));

const component = fc
  .string({
    unit: fc.integer({ min: 1, max: 255 }).map((c) => String.fromCharCode(c)),
    minLength: 1,
    maxLength: 130,
  })
  .filter((s) => !s.includes('/') && s !== '.' && s !== '..') as fc.Arbitrary<Name>;

const item = fc.record({
  name: component,
  below: fc.boolean(),
  type: fc.constantFrom<EntryType>('file', 'symlink', 'directory', 'char', 'fifo', 'hardlink'),
  mode: fc.integer({ min: 0, max: 0o7777 }),
  uid: fc.integer({ min: 0, max: 0xfffffffe }),
  mtimeSec: fc.integer({ min: -(2 ** 34), max: 2 ** 40 }),
  mtimeNsec: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 999_999_999 })),
  data: fc.uint8Array({ maxLength: 1300 }),
  hole: fc.boolean(),
  xattr: fc.option(
    fc.tuple(fc.constantFrom('user.a', 'user.a=b', 'user.%41'), fc.uint8Array({ maxLength: 40 })),
    { nil: undefined },
  ),
});

test('what is written is read back the same, whatever the names and numbers', () =>
  fc.assert(
    fc.asyncProperty(fc.uniqueArray(item, { selector: (i) => i.name, maxLength: 8 }), async (records) => {
      const files: Name[] = [];
      const items: { entry: ArchiveEntry; bytes: Uint8Array }[] = [];
      for (const r of records) {
        const type = r.type === 'hardlink' && files.length === 0 ? 'file' : r.type;
        const path = (r.below ? `${'dir'.repeat(30)}/${'x'.repeat(120)}/${r.name}` : r.name) as Name;
        const bytes = type === 'file' ? r.data : new Uint8Array(0);
        const entry: ArchiveEntry = {
          path,
          type,
          mode: r.mode,
          uid: r.uid,
          gid: r.uid,
          sizeBytes: bytes.length,
          mtimeSec: r.mtimeSec,
          mtimeNsec: r.mtimeNsec,
          ...(type === 'symlink' ? { linkTarget: r.name.repeat(3) as Name } : {}),
          ...(type === 'hardlink' ? { linkTarget: files[0]! } : {}),
          ...(type === 'char' ? { devMajor: 259, devMinor: 77777 } : {}),
          ...(r.xattr ? { xattrs: new Map([[r.xattr[0] as Name, r.xattr[1]]]) } : {}),
        };
        if (type === 'file' && r.hole && bytes.length > 0) {
          entry.sparse = [{ offset: 1_000_000, length: bytes.length }];
          entry.sizeBytes = 9_000_000_000;
        }
        if (type === 'file') files.push(path);
        items.push({ entry, bytes });
      }
      async function* source(): AsyncGenerator<ArchiveItem> {
        for (const { entry, bytes } of items) yield { entry, data: stream(bytes, 500) };
      }
      const tar = await readWhole(writeTar(source()));
      const read = await readItems(readTar(stream(tar, 3000)));
      assert.deepEqual(
        read.map((r) => ({ entry: r.entry, hex: r.bytes.toString('hex') })),
        items.map((r) => ({ entry: r.entry, hex: Buffer.from(r.bytes).toString('hex') })),
      );
    }),
    randomRuns(60),
  ));

test('GNU tar unpacks what the writer writes', () =>
  withDirectory(async (dir) => {
    mkdirSync(join(dir, 'a'));
    makeTree(join(dir, 'a'), true);
    const tar = run(join(dir, 'a'), 'tar', '-c', '--format=pax', '--numeric-owner', '.');
    const again = await readWhole(writeTar(readTar(stream(tar))));
    mkdirSync(join(dir, 'b'));
    execFileSync('tar', ['-x', '-p', '--numeric-owner', '-C', join(dir, 'b')], { input: again });
    assert.deepEqual(plain(findTree(join(dir, 'b'))), plain(findTree(join(dir, 'a'))));
    const sparse = openSync(join(dir, 'a/sparse'), 'w');
    writeSync(sparse, 'in the middle', 3_000_000);
    ftruncateSync(sparse, 6_000_000);
    closeSync(sparse);
    const sparseTar = run(join(dir, 'a'), 'tar', '-c', '-S', '--format=gnu', 'sparse');
    execFileSync('tar', ['-x', '-C', join(dir, 'b')], {
      input: await readWhole(writeTar(readTar(stream(sparseTar)))),
    });
    assert.ok(readFileSync(join(dir, 'b/sparse')).equals(readFileSync(join(dir, 'a/sparse'))));
  }));

test('an entry that changes its size while it is written is refused', async () => {
  const entry = {
    path: 'f' as Name,
    type: 'file' as const,
    mode: 0o644,
    uid: 0,
    gid: 0,
    sizeBytes: 10,
    mtimeSec: 0,
    mtimeNsec: 0,
  };
  for (const length of [9, 11])
    await assert.rejects(readWhole(writeTar([{ entry, data: stream(Buffer.alloc(length)) }])), StrataError);
});
