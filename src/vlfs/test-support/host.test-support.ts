/** For tests that play the same operations on a VLFS and on a plain directory of the host's file system. */
import { AssertionError } from 'node:assert/strict';
import * as nodeFs from 'node:fs';
import { join } from 'node:path';
import { E, renameat2 } from '../../sys/index.ts';
import type { Operation } from './operations.test-support.ts';
import { type Client, ErrnoError } from './vlfs.test-support.ts';

/** The answer of an operation: its result, or the name of the errno. */
export function answer(run: () => unknown): unknown {
  try {
    const value = run();
    return typeof value === 'string' ? value : 'ok';
  } catch (error) {
    if (error instanceof ErrnoError)
      return Object.entries(E).find(([, value]) => value === -error.errno)?.[0] ?? error.message;
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined || error instanceof AssertionError) throw error;
    return code.slice(1);
  }
}

/** The last component is never followed, as VfsOperations get it after the kernel's walk. */
export function onHost(root: string, o: Exclude<Operation, { op: 'remount' }>): unknown {
  const at = join(root, o.path);
  const noFollow = nodeFs.constants.O_NOFOLLOW;
  const use = <T>(flags: number, then: (fd: number) => T): T => {
    const fd = nodeFs.openSync(at, flags | noFollow);
    try {
      return then(fd);
    } finally {
      nodeFs.closeSync(fd);
    }
  };
  switch (o.op) {
    case 'write':
      return use(0o1101, (fd) => void nodeFs.writeSync(fd, `new ${o.path}`));
    case 'append':
      return use(0o2001, (fd) => void nodeFs.writeSync(fd, '+'));
    case 'read':
      return use(0, (fd) => nodeFs.readFileSync(fd, 'latin1'));
    case 'mkdir':
      return nodeFs.mkdirSync(at);
    case 'unlink':
      return nodeFs.unlinkSync(at);
    case 'rmdir':
      return nodeFs.rmdirSync(at);
    case 'remove':
      return nodeFs.rmSync(at, { recursive: true });
    case 'chmod':
      return use(nodeFs.lstatSync(at).isDirectory() ? 0o200000 : 0, (fd) => nodeFs.fchmodSync(fd, o.mode));
    case 'truncate':
      return use(1, (fd) => nodeFs.ftruncateSync(fd, o.size));
    case 'rename': {
      const result = renameat2(-100, at, -100, join(root, o.to), o.flags);
      if (result < 0) throw new ErrnoError(result, 'rename');
      return;
    }
    case 'link':
      return nodeFs.linkSync(at, join(root, o.to));
    case 'symlink':
      return nodeFs.symlinkSync(o.path, join(root, o.to));
  }
}

export interface Shown {
  kind: string;
  mode: number;
  nlink: number;
}

export function hostTree(root: string): Record<string, Shown> {
  const shown: Record<string, Shown> = {};
  const walk = (dir: string): void => {
    for (const entry of nodeFs.readdirSync(join(root, dir)).sort()) {
      const at = dir === '' ? entry : `${dir}/${entry}`;
      const stat = nodeFs.lstatSync(join(root, at));
      const kind = stat.isDirectory()
        ? 'dir'
        : stat.isSymbolicLink()
          ? `-> ${nodeFs.readlinkSync(join(root, at))}`
          : `file ${nodeFs.readFileSync(join(root, at), 'latin1')}`;
      shown[at] = { kind, mode: stat.mode & 0o7777, nlink: stat.isDirectory() ? 0 : stat.nlink };
      if (stat.isDirectory()) walk(at);
    }
  };
  walk('');
  return shown;
}

export function vlfsTree(c: Client): Record<string, Shown> {
  return Object.fromEntries(
    Object.entries(c.tree()).map(([at, kind]) => {
      const stat = c.stat(at);
      return [at, { kind, mode: stat.mode & 0o7777, nlink: kind === 'dir' ? 0 : stat.nlink }];
    }),
  );
}

/** The test's client does not follow symlinks on the way. */
function throughSymlink(root: string, at: string): boolean {
  const parts = at.split('/');
  return parts.some((_, i) => {
    if (i === 0) return false;
    try {
      return nodeFs.lstatSync(join(root, ...parts.slice(0, i))).isSymbolicLink();
    } catch {
      return false;
    }
  });
}

/** The kernel opens symlinks and directories itself, or refuses to: nothing that a VLFS sees. */
export function answerable(root: string, o: Exclude<Operation, { op: 'remount' }>): boolean {
  if (throughSymlink(root, o.path) || ('to' in o && throughSymlink(root, o.to))) return false;
  let stat: nodeFs.Stats | undefined;
  try {
    stat = nodeFs.lstatSync(join(root, o.path), { throwIfNoEntry: false });
  } catch {
    return true;
  }
  if (stat === undefined) return true;
  if (o.op === 'chmod') return !stat.isSymbolicLink();
  return ['write', 'append', 'read', 'truncate'].includes(o.op) ? stat.isFile() : true;
}
