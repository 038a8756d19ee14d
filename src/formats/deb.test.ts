/** Packages against dpkg-deb: every compression, a package of the archive, truncation at every byte, lies, and a gigabyte in little memory. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FormatError, StrataError } from '../base/index.ts';
import { openDeb } from './deb.ts';
import { readTar } from './tar-reader.ts';
import { readItems, stream, withDirectory } from './test-support.ts';

const CONTROL =
  'Package: sample\nVersion: 1:2.0-3\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: short\n long\n';

function dpkgDeb(...args: string[]): Buffer {
  return execFileSync('dpkg-deb', args, { maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'ignore'] });
}

/** A small package's tree, ready for dpkg-deb. */
function makeTree(dir: string): string {
  const tree = join(dir, 'tree');
  mkdirSync(join(tree, 'DEBIAN'), { recursive: true });
  mkdirSync(join(tree, 'usr/share/sample'), { recursive: true });
  mkdirSync(join(tree, 'etc'));
  writeFileSync(join(tree, 'usr/share/sample/data'), 'data\n'.repeat(1000));
  writeFileSync(join(tree, 'etc/sample.conf'), 'a=1\n');
  symlinkSync('sample/data', join(tree, 'usr/share/link'));
  writeFileSync(join(tree, 'DEBIAN/control'), CONTROL);
  writeFileSync(join(tree, 'DEBIAN/conffiles'), '/etc/sample.conf\n');
  writeFileSync(join(tree, 'DEBIAN/postinst'), '#!/bin/sh\nexit 0\n', { mode: 0o755 });
  return tree;
}

/** Paths and contents as dpkg-deb's own tar stream has them. */
async function oracle(file: string): Promise<unknown> {
  return (await readItems(readTar(stream(dpkgDeb('--fsys-tarfile', file))))).map((i) => ({
    ...i.entry,
    hex: i.bytes.toString('hex'),
  }));
}

async function entriesOf(source: string | AsyncIterable<Uint8Array>): Promise<unknown> {
  const deb = await openDeb(source);
  return (await readItems(deb.entries())).map((i) => ({ ...i.entry, hex: i.bytes.toString('hex') }));
}

/** An ar archive of these members. */
function ar(...members: [string, Buffer, number?][]): Buffer {
  const parts: Buffer[] = [Buffer.from('!<arch>\n')];
  for (const [name, bytes, size = bytes.length] of members) {
    const header = `${name.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}${String(size).padEnd(10)}\`\n`;
    parts.push(Buffer.from(header), bytes, Buffer.alloc(bytes.length % 2, '\n'));
  }
  return Buffer.concat(parts);
}

test('packages with every compression of dpkg-deb, from a file and from a stream', () =>
  withDirectory(async (dir) => {
    const tree = makeTree(dir);
    for (const compression of ['none', 'gzip', 'xz', 'zstd']) {
      const file = join(dir, `${compression}.deb`);
      dpkgDeb('--root-owner-group', `-Z${compression}`, '-b', tree, file);
      const deb = await openDeb(file);
      assert.equal(deb.control.get('Version'), '1:2.0-3');
      assert.equal(deb.control.get('Description'), 'short\nlong');
      assert.deepEqual([...deb.controlFiles.keys()].sort(), ['conffiles', 'control', 'postinst']);
      assert.equal(deb.controlFiles.get('postinst')!.mode, 0o755);
      assert.equal(Buffer.from(deb.controlFiles.get('conffiles')!.bytes).toString(), '/etc/sample.conf\n');
      const wanted = await oracle(file);
      assert.deepEqual(await entriesOf(file), wanted);
      assert.deepEqual((await readItems(deb.entries())).length, (await readItems(deb.entries())).length);
      assert.deepEqual(await entriesOf(stream(readFileSync(file), 333)), wanted);
    }
  }));

test('a package of the Debian archive', () =>
  withDirectory(async (dir) => {
    execFileSync('apt-get', ['-q', '-o', 'APT::Sandbox::User=root', 'download', 'hostname'], {
      cwd: dir,
      stdio: 'ignore',
    });
    const file = join(dir, readdirSync(dir)[0]!);
    assert.deepEqual(await entriesOf(file), await oracle(file));
    const deb = await openDeb(file);
    for (const field of ['Package', 'Version', 'Depends', 'Maintainer', 'Description'])
      assert.equal(
        deb.control.get(field) ?? '',
        dpkgDeb('-f', file, field).toString().trimEnd().replace(/\n /g, '\n'),
      );
  }));

test('a package cut at any byte is refused', () =>
  withDirectory(async (dir) => {
    const file = join(dir, 'x.deb');
    dpkgDeb('-Znone', '-b', makeTree(dir), file);
    const whole = readFileSync(file);
    const cut = join(dir, 'cut.deb');
    for (let length = 0; length < whole.length; length += length < 1000 ? 1 : 97) {
      const part = whole.subarray(0, length);
      await assert.rejects(entriesOf(stream(part, 4096)), FormatError, `cut at ${length}`);
      if (length % 8 !== 0) continue;
      writeFileSync(cut, part);
      await assert.rejects(openDeb(cut), FormatError, `file cut at ${length}`);
    }
  }));

test('a damaged byte anywhere gives an error of ours or other content, never a crash', () =>
  withDirectory(async (dir) => {
    const file = join(dir, 'x.deb');
    dpkgDeb('-Zxz', '-b', makeTree(dir), file);
    const whole = readFileSync(file);
    const before = JSON.stringify(await entriesOf(stream(whole)));
    let refused = 0;
    for (let i = 0; i < whole.length; i += 3) {
      const damaged = Buffer.from(whole);
      damaged[i]! ^= 0x24;
      try {
        // What is not refused may only be fields that say nothing about the content, such as ar's own times and owners.
        assert.equal(JSON.stringify(await entriesOf(stream(damaged))), before, `byte ${i}`);
      } catch (error) {
        assert.ok(error instanceof StrataError, `byte ${i}: ${error}`);
        refused++;
      }
    }
    assert.ok(refused > (whole.length / 3) * 0.7, `${refused} of ${whole.length / 3}`);
  }));

test('missing members, wrong formats and lying sizes are named', () =>
  withDirectory(async (dir) => {
    const file = join(dir, 'x.deb');
    const tree = makeTree(dir);
    dpkgDeb('-Znone', '-b', tree, file);
    const control = Buffer.from(execFileSync('ar', ['p', file, 'control.tar']));
    const data = Buffer.from(execFileSync('ar', ['p', file, 'data.tar']));
    const version = Buffer.from('2.0\n');
    const empty = Buffer.alloc(1024);
    const two: [string, Buffer][] = [
      ['debian-binary', version],
      ['control.tar', control],
    ];
    const cases: [string, Buffer, RegExp][] = [
      ['no archive', Buffer.from('PK\x03\x04 this is a zip file'), /no ar archive/],
      ['nothing', Buffer.alloc(0), /no ar archive/],
      ['no members', ar(), /debian-binary is missing/],
      ['another first member', ar(['other', version]), /debian-binary is expected, here is other/],
      ['another version', ar(['debian-binary', Buffer.from('3.0\n')]), /not 2\.x/],
      ['no control', ar(['debian-binary', version]), /control\.tar is missing/],
      ['no data', ar(...two), /data\.tar is missing/],
      [
        'control without control',
        ar(['debian-binary', version], ['control.tar', empty]),
        /control file is missing/,
      ],
      ['data in an unknown compression', ar(...two, ['data.tar.rar', data]), /data\.tar\.rar is packed/],
      ['data that is not what its name says', ar(...two, ['data.tar.xz', data]), /no xz data/],
      ['a size beyond the end', ar(...two, ['data.tar', data, 9_999_999_999]), /before the end/],
      [
        'a size that is too small',
        ar(...two, ['data.tar', data, data.length - 1024]),
        /garbage after|end mark/,
      ],
      ['a negative size', ar(...two, ['data.tar', data, -1]), /bad size/],
    ];
    for (const [what, bytes, message] of cases) {
      const matches = (e: Error): boolean => e instanceof FormatError && message.test(e.message);
      await assert.rejects(entriesOf(stream(bytes)), matches, what);
      writeFileSync(join(dir, 'bad.deb'), bytes);
      await assert.rejects(
        entriesOf(join(dir, 'bad.deb')),
        (e: Error) => matches(e) && e.message.startsWith('bad.deb'),
        what,
      );
    }
    const extra = ar(
      ['debian-binary', version],
      ['_gpg', Buffer.from('sig')],
      ['control.tar', control],
      ['data.tar', data],
    );
    assert.deepEqual(await entriesOf(stream(extra)), await oracle(file));
    await assert.rejects(openDeb(join(dir, 'none.deb')), (e: NodeJS.ErrnoException) => e.code === 'ENOENT');
  }));

test('hostile control archives are refused', () =>
  withDirectory(async (dir) => {
    const file = join(dir, 'x.deb');
    dpkgDeb('-Znone', '-b', makeTree(dir), file);
    const data = Buffer.from(execFileSync('ar', ['p', file, 'data.tar']));
    const control = join(dir, 'control');
    mkdirSync(join(control, 'sub'), { recursive: true });
    writeFileSync(join(control, 'control'), CONTROL);
    writeFileSync(join(control, 'sub/x'), '');
    symlinkSync('/etc/passwd', join(control, 'postinst'));
    for (const names of [
      ['control', 'sub/x'],
      ['control', 'postinst'],
    ]) {
      const tar = execFileSync('tar', ['-c', ...names], { cwd: control });
      const bytes = ar(['debian-binary', Buffer.from('2.0\n')], ['control.tar', tar], ['data.tar', data]);
      await assert.rejects(
        openDeb(stream(bytes)),
        (e: Error) => e instanceof FormatError && /is refused/.test(e.message),
      );
    }
    writeFileSync(join(control, 'control'), `${CONTROL}\n${CONTROL}`);
    const tar = execFileSync('tar', ['-c', 'control'], { cwd: control });
    const bytes = ar(['debian-binary', Buffer.from('2.0\n')], ['control.tar', tar], ['data.tar', data]);
    await assert.rejects(openDeb(stream(bytes)), /one stanza/);
  }));

test('a package of 1 GB needs little memory', () =>
  withDirectory(async (dir) => {
    const file = join(dir, 'x.deb');
    dpkgDeb('-Znone', '-b', makeTree(dir), file);
    const control = Buffer.from(execFileSync('ar', ['p', file, 'control.tar']));
    const size = 2 ** 30;
    const header = execFileSync('sh', ['-c', 'truncate -s 1G big && tar -c --format=gnu big | head -c 512'], {
      cwd: dir,
    });
    const chunk = Buffer.alloc(2 ** 18, 'strata');
    async function* big(): AsyncGenerator<Uint8Array> {
      const head = ar(
        ['debian-binary', Buffer.from('2.0\n')],
        ['control.tar', control],
        ['data.tar', header, size + 1536],
      );
      yield head;
      for (let sent = 0; sent < size; sent += chunk.length) yield chunk;
      yield Buffer.alloc(1024);
    }
    const before = process.memoryUsage().rss;
    let most = 0;
    let bytes = 0;
    for await (const { data } of (await openDeb(big())).entries()) {
      for await (const piece of data) {
        bytes += piece.length;
        if (bytes % 2 ** 26 === 0) most = Math.max(most, process.memoryUsage().rss - before);
      }
    }
    assert.equal(bytes, size);
    assert.ok(most < 600 * 2 ** 20, `${most >> 20} MiB more`);
  }));
