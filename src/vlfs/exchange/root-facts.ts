/** What the root of an appliance is for programs: owner, mode and attributes of its private directory, as a text that can be compared and kept. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  fchmod,
  fchown,
  fgetxattr,
  flistxattr,
  fsetxattr,
  fstat,
  newStat,
  splitXattrList,
} from '../../sys/index.ts';
import { systemFailure } from '../failure.ts';
import { isInternal } from '../operations/internal-xattrs.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

/** [uid, gid, mode, [name, base64][]] */
type Facts = [number, number, number, [string, string][]];

/** Of an open directory. */
export function rootFacts(fd: number): string {
  const stat = newStat();
  fstat(fd, stat);
  const list = flistxattr(fd);
  const names = typeof list === 'number' ? [] : splitXattrList(list);
  const attributes = names
    .filter((name) => !isInternal(name))
    .sort()
    .map((name): [string, string] => {
      const value = fgetxattr(fd, name);
      return [name, typeof value === 'number' ? '' : Buffer.from(value).toString('base64')];
    });
  return JSON.stringify([stat.uid, stat.gid, stat.mode & 0o7777, attributes] satisfies Facts);
}

/** Of a directory by its path. Throws when it cannot be opened. */
export function rootFactsOf(dir: string): string {
  const fd = openDirectory(AT_FDCWD, nameFromText(dir));
  if (fd < 0) throw systemFailure(fd, `open ${dir}`);
  try {
    return rootFacts(fd);
  } finally {
    close(fd);
  }
}

/** What the root of a new appliance is. */
export const NEW_ROOT: string = JSON.stringify([0, 0, 0o755, []] satisfies Facts);

/** An empty directory below `parent` with these facts, made when it is missing. Its path. */
export function emptyRoot(parent: string, facts: string): string {
  const dir = join(parent, createHash('sha256').update(facts).digest('hex').slice(0, 16));
  if (existsSync(dir)) return dir;
  const temporary = `${dir}.${process.pid}`;
  mkdirSync(temporary, { recursive: true, mode: 0o755 });
  const [uid, gid, mode, attributes] = JSON.parse(facts) as Facts;
  const fd = openDirectory(AT_FDCWD, nameFromText(temporary));
  if (fd < 0) throw systemFailure(fd, `open ${temporary}`);
  try {
    fchown(fd, uid, gid);
    for (const [name, value] of attributes) fsetxattr(fd, name, Buffer.from(value, 'base64'));
    fchmod(fd, mode);
  } finally {
    close(fd);
  }
  renameSync(temporary, dir);
  return dir;
}
