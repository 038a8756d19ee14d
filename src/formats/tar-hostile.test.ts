/** Archives made to do harm or damaged on the way: each is refused with a clear error, and nothing crashes. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { test } from 'node:test';
import { FormatError, StrataError } from '../base/index.ts';
import { BLOCK_BYTES, formatTarHeader, type TarHeader } from './tar-header.ts';
import { formatPaxRecord } from './tar-pax.ts';
import { type ReadTarOptions, readTar } from './tar-reader.ts';
import { readItems, setXattr, stream, withDirectory } from './test-support.ts';

const END = Buffer.alloc(2 * BLOCK_BYTES);

/** One entry's blocks. */
function block(fields: Partial<TarHeader>, data: Buffer = Buffer.alloc(0)): Buffer {
  const header = formatTarHeader({
    name: 'f',
    prefix: '',
    mode: 0o644,
    uid: 0,
    gid: 0,
    sizeBytes: data.length,
    mtimeSec: 0,
    typeflag: '0',
    linkName: '',
    userName: 'root',
    groupName: 'root',
    devMajor: 0,
    devMinor: 0,
    ...fields,
  });
  return Buffer.concat([
    header,
    data,
    Buffer.alloc((BLOCK_BYTES - (data.length % BLOCK_BYTES)) % BLOCK_BYTES),
  ]);
}

const pax = (...records: [string, string][]): Buffer =>
  block(
    { name: 'PaxHeaders/x', typeflag: 'x' },
    Buffer.concat(records.map(([k, v]) => formatPaxRecord(k, v))),
  );
const link = (name: string, linkName: string): Buffer => block({ name, typeflag: '2', linkName });
const hard = (name: string, linkName: string): Buffer => block({ name, typeflag: '1', linkName });
const directory = (name: string): Buffer => block({ name, typeflag: '5' });

function read(parts: Buffer[], options: ReadTarOptions = {}) {
  return readItems(readTar(stream(Buffer.concat([...parts, END]), 700), options));
}

const HOSTILE: [string, Buffer[], RegExp][] = [
  ['an absolute name', [block({ name: '/etc/passwd' })], /"\/etc\/passwd" is absolute/],
  ["'..' in a name", [block({ name: 'a/../../etc/passwd' })], /'\.\.' component/],
  ["'..' at the end", [directory('a/..')], /'\.\.' component/],
  ['an empty name', [block({ name: '' })], /is empty/],
  ['an absolute PAX path', [pax(['path', '/x']), block({})], /is absolute/],
  ["'..' in a PAX path", [pax(['path', 'x/../../y']), block({})], /'\.\.' component/],
  ['NUL in a PAX path', [pax(['path', 'x\0y']), block({})], /NUL/],
  ['a component that is too long', [pax(['path', 'n'.repeat(256)]), block({})], /over 255 bytes/],
  ['a path that is too long', [pax(['path', 'ab/'.repeat(1400)]), block({})], /longer than 4095/],
  [
    'a GNU long name upwards',
    [block({ name: '././@LongLink', typeflag: 'L' }, Buffer.from('../x\0')), block({})],
    /'\.\.'/,
  ],
  ['a file as root', [block({ name: './', typeflag: '6' })], /root/],
  ['a hard link upwards', [hard('x', '../../etc/shadow')], /hard link target.*'\.\.'/],
  ['an absolute hard link', [hard('x', '/etc/shadow')], /hard link target.*absolute/],
  ['a hard link to what is not in the archive', [hard('x', 'etc/shadow')], /no earlier file/],
  ['a hard link to a directory', [directory('d'), hard('x', 'd')], /no earlier file/],
  [
    'a file below a symlink',
    [link('d', '/etc'), block({ name: 'd/passwd' })],
    /lies below "d", which is a symlink/,
  ],
  ['a directory below a symlink', [link('d', '/'), directory('d/e')], /below "d"/],
  ['a deep file below a symlink', [link('a/b', '/'), block({ name: 'a/b/c/d/e' })], /below "a\/b"/],
  ['below a hard link to a symlink', [link('a', '/'), hard('b', 'a'), block({ name: 'b/c' })], /below "b"/],
  [
    'a directory that becomes a symlink',
    [directory('d'), link('d', '/etc'), block({ name: 'd/x' })],
    /stands twice/,
  ],
  [
    'an implied directory that becomes a symlink',
    [block({ name: 'd/x' }), link('d', '/etc')],
    /stands twice/,
  ],
  ['a symlink that becomes a directory', [link('d', '/etc'), directory('d')], /stands twice/],
  ['a file twice', [block({ name: 'x' }), block({ name: './x' })], /stands twice/],
  ['a file below a file', [block({ name: 'x' }), block({ name: 'x/y' })], /file of the same archive/],
  ['an empty symlink', [link('x', '')], /symlink/],
  ['an unknown type', [block({ typeflag: 'Q' })], /unknown type "Q"/],
  ['a multi-volume part', [block({ typeflag: 'M' })], /multi-volume/],
  ['a directory with data', [block({ typeflag: '5' }, Buffer.from('data'))], /no regular file/],
  ['a device out of range', [block({ typeflag: '3', devMajor: 0x1000 })], /device number/],
  ['an owner out of range', [pax(['uid', '4294967295']), block({})], /owner/],
  ['a PAX size that is no number', [pax(['size', '-1']), block({})], /bad value of size/],
  [
    'a PAX record that lies about its length',
    [block({ typeflag: 'x' }, Buffer.from('99 path=x\n')), block({})],
    /record/,
  ],
  ['a PAX record of no length', [block({ typeflag: 'x' }, Buffer.from('0 path=x\n')), block({})], /record/],
  ['a PAX header without an entry', [pax(['path', 'x'])], /without an entry/],
  [
    'a sparse map beyond the file',
    [pax(['GNU.sparse.size', '10'], ['GNU.sparse.map', '8,4']), block({}, Buffer.from('abcd'))],
    /sparse map/,
  ],
  [
    'a sparse map out of order',
    [pax(['GNU.sparse.size', '99'], ['GNU.sparse.map', '8,2,4,2']), block({}, Buffer.from('abcd'))],
    /sparse map/,
  ],
  [
    'a sparse map that does not fit',
    [pax(['GNU.sparse.size', '99'], ['GNU.sparse.map', '8,3']), block({}, Buffer.from('abcd'))],
    /sparse map/,
  ],
  [
    'a sparse 1.0 map without end',
    [
      pax(['GNU.sparse.major', '1'], ['GNU.sparse.minor', '0'], ['GNU.sparse.realsize', '99']),
      block({}, Buffer.alloc(512, '9')),
    ],
    /sparse map/,
  ],
];

for (const [what, parts, message] of HOSTILE) {
  test(`${what} is refused`, async () => {
    await assert.rejects(read(parts), (e: Error) => e instanceof FormatError && message.test(e.message));
  });
}

test('limits answer with LIMIT', async () => {
  const isLimit = (e: StrataError): boolean => e.code === 'LIMIT';
  await assert.rejects(read([block({ name: 'a' }), block({ name: 'b' })], { maxEntries: 1 }), isLimit);
  await assert.rejects(read([block({ name: 'a' }, Buffer.alloc(100))], { maxBytes: 99 }), isLimit);
  const huge = block({ typeflag: 'x', sizeBytes: 8 ** 11 - 1 });
  await assert.rejects(read([huge]), isLimit);
  await assert.rejects(read([block({ typeflag: 'L', sizeBytes: 100_000 })]), isLimit);
  await assert.rejects(read([pax(['SCHILY.xattr.user.x', 'y'.repeat(65537)]), block({})]), isLimit);
});

test('the usrmerge links may have entries below them when the caller says so', async () => {
  const parts = [link('bin', 'usr/bin'), block({ name: 'bin/sh' })];
  await assert.rejects(read(parts), FormatError);
  const items = await read(parts, {
    isAllowedSymlinkParent: (path, target) => path === 'bin' && target === 'usr/bin',
  });
  assert.deepEqual(
    items.map((i) => i.entry.path),
    ['bin', 'bin/sh'],
  );
});

test('odd but honest names are normalised', async () => {
  const parts = [directory('./'), block({ name: './/a/./b' }), hard('c', './a//b')];
  const items = await read(parts);
  assert.deepEqual(
    items.map((i) => [i.entry.path, i.entry.linkTarget]),
    [
      ['', undefined],
      ['a/b', undefined],
      ['c', 'a/b'],
    ],
  );
});

const small = await withDirectory((dir) => {
  execFileSync('sh', ['-c', 'echo data > file && ln file hard && ln -s file soft && mkdir dir'], {
    cwd: dir,
  });
  setXattr(join(dir, 'file'), 'user.x', '79');
  const names = ['file', 'hard', 'soft', 'dir'];
  return execFileSync('tar', ['-c', '--format=pax', '--xattrs', '-b', '1', ...names], { cwd: dir });
});

test('an archive cut at any byte is refused', async () => {
  const end = small.length - 2 * BLOCK_BYTES;
  for (let length = 0; length < end + BLOCK_BYTES; length++)
    await assert.rejects(
      readItems(readTar(stream(small.subarray(0, length)))),
      FormatError,
      `cut at ${length}`,
    );
  assert.equal((await readItems(readTar(stream(small)))).length, 4);
});

test('a flipped bit anywhere gives an error of ours or other entries, never a crash', async () => {
  let refused = 0;
  for (let i = 0; i < small.length; i++) {
    const damaged = Buffer.from(small);
    damaged[i]! ^= 1 << (i % 8);
    try {
      await readItems(readTar(stream(damaged)));
    } catch (error) {
      assert.ok(error instanceof StrataError, `byte ${i}: ${error}`);
      refused++;
    }
  }
  assert.ok(refused > 2000, `${refused} of ${small.length}`);
});

test('an entry whose data is left unread is passed over; reading it later fails', async () => {
  const parts = [block({ name: 'a' }, Buffer.alloc(5000, 'a')), block({ name: 'b' }, Buffer.from('bb'))];
  let first: AsyncIterable<Uint8Array> | undefined;
  const names: string[] = [];
  for await (const { entry, data } of readTar(stream(Buffer.concat([...parts, END]), 300))) {
    names.push(entry.path);
    first ??= data;
  }
  assert.deepEqual(names, ['a', 'b']);
  for await (const _ of first!) assert.fail('data of an entry that was left');
});
