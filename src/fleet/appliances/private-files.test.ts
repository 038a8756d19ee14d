/** Package databases in private layers: merged when the template's change, and never read or written outside the layer. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { mergedDatabases, writePrivateFiles } from './private-files.ts';

const dir = mkdtempSync(join(tmpdir(), 'strata-private-'));
const privateDir = join(dir, 'private');
const status = join(privateDir, 'var/lib/dpkg/status');
after(() => rmSync(dir, { recursive: true, force: true }));
beforeEach(() => {
  rmSync(privateDir, { recursive: true, force: true });
  mkdirSync(join(privateDir, 'var/lib/dpkg'), { recursive: true });
});

const stanza = (name: string, version: string) =>
  `Package: ${name}\nStatus: install ok installed\nArchitecture: all\nVersion: ${version}\n`;
const CHANGE = {
  path: 'var/lib/dpkg/status',
  from: `${stanza('libc6', '1')}\n`,
  to: `${stanza('libc6', '2')}\n`,
};

test('an appliance keeps the package it installed and has the new version of the template', () => {
  writeFileSync(status, `${stanza('libc6', '1')}\n${stanza('mine', '7')}\n`, { mode: 0o600 });
  execFileSync('setfattr', ['-n', 'trusted.test', '-v', 'kept', status]);
  writePrivateFiles(privateDir, mergedDatabases([privateDir], [CHANGE]));
  const text = readFileSync(status, 'utf8');
  assert.match(text, /Package: libc6[\s\S]*Version: 2[\s\S]*Package: mine[\s\S]*Version: 7/);
  assert.equal(statSync(status).mode & 0o777, 0o600);
  assert.match(execFileSync('getfattr', ['-n', 'trusted.test', status], { encoding: 'utf8' }), /kept/);
  assert.deepEqual(mergedDatabases([privateDir], [CHANGE]), [], 'doing it again changes nothing');
});

test('an appliance without a database of its own has nothing to merge', () => {
  assert.deepEqual(mergedDatabases([privateDir], [CHANGE]), []);
});

test('links, devices and pipes in a private layer are not followed', () => {
  const outside = join(dir, 'outside');
  mkdirSync(outside, { recursive: true });
  writeFileSync(join(outside, 'status'), stanza('secret', '1'));
  symlinkSync(join(outside, 'status'), status);
  assert.deepEqual(mergedDatabases([privateDir], [CHANGE]), []);
  rmSync(join(privateDir, 'var/lib/dpkg'), { recursive: true });
  symlinkSync(outside, join(privateDir, 'var/lib/dpkg'));
  assert.deepEqual(mergedDatabases([privateDir], [CHANGE]), []);
  assert.throws(() => writePrivateFiles(privateDir, [{ path: CHANGE.path, content: Buffer.from('x') }]));
  assert.equal(readFileSync(join(outside, 'status'), 'utf8'), stanza('secret', '1'));
  rmSync(join(privateDir, 'var/lib/dpkg'));
  mkdirSync(join(privateDir, 'var/lib/dpkg'));
  execFileSync('mkfifo', [status]);
  assert.deepEqual(mergedDatabases([privateDir], [CHANGE]), []);
});
