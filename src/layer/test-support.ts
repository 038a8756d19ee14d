/** For the tests of layer/: temporary directories that always go away, packages made by dpkg-deb, listings made by find(1). */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { after } from 'node:test';
import { setxattrAt } from '../sys/index.ts';

/** A new directory that is deleted when the test file ends. */
export function temporaryDir(): string {
  const dir = mkdtempSync(join(tmpdir(), 'strata-layer-test-'));
  after(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

export function sh(script: string, cwd: string): string {
  return execFileSync('bash', ['-euc', script], {
    cwd,
    encoding: 'latin1',
    stdio: ['ignore', 'pipe', 'pipe'],
    maxBuffer: 1 << 28,
  });
}

export interface TestPackage {
  name?: string;
  version?: string;
  /** More lines of the control stanza. */
  control?: string[];
  /** Other files of the control archive. */
  info?: Record<string, string>;
  /** Shell commands that fill the tree; the working directory is its root. */
  tree: string;
  compression?: 'none' | 'gzip' | 'xz' | 'zstd';
}

/** Builds a package with dpkg-deb; returns its path. */
export function makePackage(dir: string, spec: TestPackage): string {
  const { name = 'hello', version = '1.0-1', control = [], info = {}, compression = 'gzip' } = spec;
  const root = mkdtempSync(join(dir, 'package-'));
  mkdirSync(join(root, 'DEBIAN'));
  const arch = control.some((line) => line.startsWith('Architecture:')) ? [] : ['Architecture: amd64'];
  const lines = [
    `Package: ${name}`,
    `Version: ${version}`,
    'Maintainer: T <t@example.org>',
    ...arch,
    ...control,
  ];
  writeFileSync(join(root, 'DEBIAN/control'), `${lines.join('\n')}\nDescription: a test\n`);
  for (const [file, text] of Object.entries(info)) {
    writeFileSync(join(root, 'DEBIAN', file), text, { mode: /inst$|rm$/.test(file) ? 0o755 : 0o644 });
  }
  sh(spec.tree, root);
  const file = join(dir, `${name}_${version.replaceAll(':', '%3a')}.deb`);
  execFileSync('dpkg-deb', ['--nocheck', `-Z${compression}`, '-b', root, file], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  rmSync(root, { recursive: true, force: true });
  return file;
}

/** What a tree holds, one line an entry, sorted: type, mode, owner, size, time, names of the inode, target, path. Directories without size and time
 * of links; the inode's names only for other than directories. */
export function listing(dir: string): string[] {
  const common = '%y %m %U:%G';
  const format = (type: string, rest: string): string => `-type ${type} -printf '${common} ${rest} %P\\0'`;
  const expression = [
    format('d', '%T@'),
    format('l', '%T@ -> %l'),
    format('f', '%s %T@ links=%n'),
    format('p', '%T@'),
    `'(' -type b -o -type c ')' -printf '${common} %T@ %P\\0'`,
  ].join(' -o ');
  return sh(`find . ${expression}`, dir).split('\0').filter(Boolean).sort();
}

/** A file with its directories. */
export function put(file: string, content: string | Uint8Array, mode = 0o644): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content, { mode });
}

/** Sets an extended attribute of a file, not following a symlink. */
export function setXattr(file: string, name: string, value: string | Uint8Array): void {
  const fd = openSync(dirname(file), 'r');
  const result = setxattrAt(fd, basename(file), name, Buffer.from(value));
  closeSync(fd);
  if (result < 0) throw new Error(`setxattr ${name} on ${file}: errno ${-result}`);
}

/** A POSIX access ACL (linux/posix_acl_xattr.h): owner rw, user 1000 r, group r, mask r, others none. */
export const ACL = Buffer.from(
  '02000000' +
    '01000600ffffffff' +
    '02000400e8030000' +
    '04000400ffffffff' +
    '10000400ffffffff' +
    '20000000ffffffff',
  'hex',
);

/** Fails with the lines that only one of the two has. */
export function assertSameLines(actual: readonly string[], expected: readonly string[]): void {
  const a = new Set(actual);
  const e = new Set(expected);
  const differences = {
    unexpected: actual.filter((line) => !e.has(line)),
    missing: expected.filter((line) => !a.has(line)),
  };
  assert.deepEqual(differences, { unexpected: [], missing: [] });
  assert.equal(actual.length, expected.length);
}
