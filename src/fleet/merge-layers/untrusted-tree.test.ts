/** Trees that an appliance's root wrote: deleted whatever their depth, read and written without leaving them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { removeTree } from '../state/files.ts';
import { fleetPaths } from '../state/paths.ts';
import { readConfigFile } from '../templates/generations.ts';
import { replaceBeneath } from './replace-beneath.ts';

const dir = mkdtempSync(join(tmpdir(), 'strata-untrusted-'));
after(() => rmSync(dir, { recursive: true, force: true }));

test('a tree deeper than any path is long is deleted, links in it are not followed', () => {
  const outside = join(dir, 'outside');
  mkdirSync(outside);
  writeFileSync(join(outside, 'kept'), '');
  const tree = join(dir, 'deep');
  mkdirSync(tree);
  const script = `
import os
os.chdir(${JSON.stringify(tree)})
for name in ['d' * 200] * 40 + ['e'] * 3000:
    os.mkdir(name); os.symlink(${JSON.stringify(outside)}, 'link'); os.chdir(name)
open('file', 'w')`;
  execFileSync('python3', ['-c', script]);
  removeTree(tree);
  assert.equal(existsSync(tree), false);
  assert.ok(existsSync(join(outside, 'kept')));
  removeTree(tree);
  symlinkSync(outside, join(dir, 'link'));
  removeTree(join(dir, 'link'));
  assert.ok(existsSync(join(outside, 'kept')));
});

test("a config layer's databases are neither read nor written through links, and a pipe makes nobody wait", () => {
  const paths = fleetPaths(join(dir, 'root'));
  const config = join(dir, 'root/templates/t/generations/1/config');
  const outside = join(dir, 'host');
  mkdirSync(outside);
  writeFileSync(join(outside, 'status'), 'secret');
  mkdirSync(join(config, 'var/lib'), { recursive: true });
  symlinkSync(outside, join(config, 'var/lib/dpkg'));
  const record = { configs: [{ owner: 't', generation: 1 }] } as Parameters<typeof readConfigFile>[1];
  assert.equal(readConfigFile(paths, record, 'var/lib/dpkg/status'), null);
  assert.throws(() => replaceBeneath(config, 'var/lib/dpkg/status', Buffer.from('x')), /dpkg is a link/);
  assert.equal(readFileSync(join(outside, 'status'), 'utf8'), 'secret');
  rmSync(join(config, 'var/lib/dpkg'));
  assert.equal(readConfigFile(paths, record, 'var/lib/dpkg/status'), null);
  replaceBeneath(config, 'var/lib/dpkg/status', Buffer.from('new'));
  assert.equal(readConfigFile(paths, record, 'var/lib/dpkg/status'), 'new');
  assert.equal(statSync(join(config, 'var/lib/dpkg/status')).mode & 0o777, 0o644);
  rmSync(join(config, 'var/lib/dpkg/status'));
  execFileSync('mkfifo', [join(config, 'var/lib/dpkg/status')]);
  assert.equal(readConfigFile(paths, record, 'var/lib/dpkg/status'), null);
});
