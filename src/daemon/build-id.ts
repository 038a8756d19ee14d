/**
 * Which build of Strata this is: the package version, and in a checkout also the commit. Client and daemon compare
 * theirs, so that a daemon that outlived an upgrade is noticed. Reads two or three small files; never fails.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

const home = resolve(import.meta.dirname, '../..');

/** The version of package.json, e.g. `0.1.0`. */
export function packageVersion(): string {
  const text = readFileSync(join(home, 'package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** `VERSION` or, in a git checkout, `VERSION+COMMIT` with twelve digits of the commit. */
export function buildId(): string {
  const commit = checkoutCommit(join(home, '.git'));
  return commit === null ? packageVersion() : `${packageVersion()}+${commit.slice(0, 12)}`;
}

function checkoutCommit(gitDir: string): string | null {
  const head = readText(join(gitDir, 'HEAD'));
  if (head === null) return null;
  if (!head.startsWith('ref: ')) return isCommit(head) ? head : null;
  const ref = head.slice(5);
  if (!/^refs\/[A-Za-z0-9._/-]+$/.test(ref) || ref.includes('..')) return null;
  const loose = readText(join(gitDir, ref));
  if (loose !== null && isCommit(loose)) return loose;
  const packed = readText(join(gitDir, 'packed-refs'));
  const line = packed?.split('\n').find((l) => l.endsWith(` ${ref}`));
  const commit = line?.slice(0, line.indexOf(' ')) ?? '';
  return isCommit(commit) ? commit : null;
}

function isCommit(text: string): boolean {
  return /^[0-9a-f]{40,64}$/.test(text);
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return null;
  }
}
