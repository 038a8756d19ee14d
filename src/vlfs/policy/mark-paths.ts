/**
 * Marks objects of an appliance as nonclonable from outside, or takes the marks away: `trusted.strata.nonclonable` on the private copy. What is shared
 * is copied up first, by whoever serves the VLFS. It waits for that, so it runs on a thread of its own.
 */
import { nameFromText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  errnoName,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_PATH,
  openat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  removexattrPathFd,
  setxattrPathFd,
} from '../../sys/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core } from '../core.ts';
import { closeCore, openCore } from '../open-core.ts';
import { nodeAt } from '../operations/lookup.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { forgetUsage } from '../quota/usage-file.ts';
import { splitPath } from '../split-path.ts';
import { MARK_XATTR, USER_MARK } from './marks.ts';
import { runHere } from './run-here.ts';

const YES = Buffer.from('y');
const ANYTHING = O_PATH | O_NOFOLLOW | O_CLOEXEC;

export interface MarkJob {
  spec: VlfsSpec;
  /** Where the VLFS is mounted, or null: nobody has it open. */
  mountpoint: string | null;
  paths: string[];
  marked: boolean;
}

/** Throws NOT_FOUND for a path that the appliance does not show, UNSUPPORTED for an object of another kind while it is mounted. */
export function markPaths({ spec, mountpoint, paths, marked }: MarkJob): void {
  // What is copied up here is not counted.
  if (mountpoint === null) forgetUsage(spec.privateDir);
  const core = mountpoint === null ? openCore(spec) : null;
  try {
    for (const path of paths) {
      const parts = splitPath(path);
      if (parts.length === 0) throw new StrataError('USAGE', 'the root directory cannot be marked');
      if (core !== null) makePrivate(core, parts, path);
      const kernels = mountpoint === null ? -1 : touch(mountpoint, parts, path);
      try {
        setMark(spec.privateDir, parts, path, marked);
        if (kernels >= 0) removexattrPathFd(kernels, USER_MARK);
      } finally {
        if (kernels >= 0) close(kernels);
      }
    }
  } finally {
    if (core !== null) closeCore(core);
  }
}

function fail(result: number, path: string): never {
  if (result === -E.NOENT || result === -E.NOTDIR || result === -E.LOOP) {
    throw new StrataError('NOT_FOUND', `the appliance has no ${path}`, { hint: 'links are not followed' });
  }
  throw new StrataError('IO', `cannot mark ${path} (${errnoName(-result)})`);
}

/** The object below `dir` as it is, without following a link anywhere. */
function openBelow(dir: string, parts: readonly string[], path: string): number {
  const root = openat(AT_FDCWD, nameFromText(dir), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0) fail(root, path);
  const fd = openat2(root, parts.join('/'), ANYTHING, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
  close(root);
  return fd < 0 ? fail(fd, path) : fd;
}

/** Through the mount: an attribute that its server sets after a copy-up. */
function touch(mountpoint: string, parts: readonly string[], path: string): number {
  const fd = openBelow(mountpoint, parts, path);
  const set = setxattrPathFd(fd, USER_MARK, YES);
  if (set >= 0) return fd;
  close(fd);
  if (set !== -E.PERM) fail(set, path);
  throw new StrataError('UNSUPPORTED', `${path} is neither a file nor a directory`, {
    hint: 'unmount the appliance, then mark it',
  });
}

/** In a VLFS that nobody has open. */
function makePrivate(core: Core, parts: string[], path: string): void {
  const parent = directoryByPath(core, parts.slice(0, -1));
  const node = parent === null ? 0 : nodeAt(core, parent, parts.at(-1)!);
  if (typeof node === 'number') fail(node === 0 ? -E.NOENT : node, path);
  const result =
    node.children === null ? runHere((caller) => copyUp(core, caller, node)) : privateDirectory(core, node);
  if (result < 0) fail(result, path);
}

function setMark(privateDir: string, parts: readonly string[], path: string, marked: boolean): void {
  const fd = openBelow(privateDir, parts, path);
  const result = marked ? setxattrPathFd(fd, MARK_XATTR, YES) : removexattrPathFd(fd, MARK_XATTR);
  close(fd);
  if (result < 0 && result !== -E.NODATA) fail(result, path);
}
