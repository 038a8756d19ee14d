/**
 * Which directories a sealed mount takes as data-only layers. The kernel looks for a file's data in one after the other, so they should be few, and
 * a path of one must not exist in an earlier one. A path must not cross a mount or a symlink; both are checked here as the kernel will.
 */
import { realpathSync } from 'node:fs';
import { dirname } from 'node:path';
import { nameFromText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  O_CLOEXEC,
  O_DIRECTORY,
  O_PATH,
  openat,
  openat2,
  RESOLVE_BENEATH,
  RESOLVE_NO_SYMLINKS,
  RESOLVE_NO_XDEV,
} from '../../sys/index.ts';
import type { LevelSpec, StackSpec } from '../contract.ts';
import type { DataLayers } from './contract.ts';

const DIRECTORY = O_PATH | O_DIRECTORY | O_CLOEXEC;
const AS_OVERLAYFS = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
/** OVL_MAX_STACK of fs/overlayfs, less the image and a private layer. */
const MAX_LAYERS = 498;

/** Stacks whose trees were found in this process: a stack with the same key has its trees at the same places. */
const found = new Map<string, DataLayers>();
const KEEP_FOUND = 16;

/** Throws NOT_FOUND or UNSUPPORTED when a tree cannot be a part of a data layer. */
export function dataLayers(stack: StackSpec, roots: readonly string[]): DataLayers {
  const key = `${stack.key}\0${roots.join('\0')}`;
  const layers = found.get(key) ?? findLayers(stack.levels, roots);
  found.delete(key);
  found.set(key, layers);
  if (found.size > KEEP_FOUND) found.delete(found.keys().next().value!);
  return layers;
}

function findLayers(levels: readonly LevelSpec[], roots: readonly string[]): DataLayers {
  const fds = new Map<string, number>();
  try {
    const places = levels.map((level) => placeOf(level, roots, fds));
    const used = new Set(places.map(({ base }) => base));
    const dirs = [
      ...roots.filter((root) => used.has(root)),
      ...[...used].filter((base) => !roots.includes(base)),
    ];
    if (dirs.length > MAX_LAYERS) {
      throw new StrataError(
        'LIMIT',
        `the layers of a sealed mount lie in ${dirs.length} directories, more than ${MAX_LAYERS}`,
        {
          hint: 'use the door fuse',
        },
      );
    }
    for (const { base, path } of places) {
      const rival = dirs.slice(0, dirs.indexOf(base)).find((dir) => reaches(fds.get(dir)!, path));
      if (rival === undefined) continue;
      throw new StrataError(
        'UNSUPPORTED',
        `${path} is in ${rival} and in ${base}, which a sealed mount cannot tell apart`,
        {
          hint: 'use the door fuse, or give the repositories directories with different unit names',
        },
      );
    }
    return { dirs, prefixes: places.map(({ path }) => `/${nameFromText(path)}`) };
  } finally {
    for (const fd of fds.values()) if (fd >= 0) close(fd);
  }
}

function placeOf(
  level: LevelSpec,
  roots: readonly string[],
  fds: Map<string, number>,
): { base: string; path: string } {
  const { treeDir } = level;
  const parent = dirname(treeDir);
  const bases = roots.filter((root) => treeDir.startsWith(`${root}/`));
  bases.push(level.kind === 'software' ? dirname(parent) : parent);
  for (const base of bases) {
    const path = treeDir.slice(base === '/' ? 1 : base.length + 1);
    if (reaches(openBase(base, fds), path)) return { base, path };
  }
  const real = realTree(level);
  const base = dirname(real);
  const path = real.slice(base === '/' ? 1 : base.length + 1);
  if (path !== '' && reaches(openBase(base, fds), path)) return { base, path };
  throw new StrataError('UNSUPPORTED', `the tree of ${level.id} is a mount of its own (${real})`, {
    hint: 'use the door fuse',
  });
}

function realTree(level: LevelSpec): string {
  try {
    return realpathSync(level.treeDir);
  } catch (error) {
    throw new StrataError('NOT_FOUND', `the tree of ${level.id} is not at ${level.treeDir}`, {
      cause: error,
    });
  }
}

function openBase(base: string, fds: Map<string, number>): number {
  const known = fds.get(base);
  if (known !== undefined) return known;
  const fd = openat(AT_FDCWD, nameFromText(base), DIRECTORY);
  fds.set(base, fd);
  return fd;
}

function reaches(baseFd: number, path: string): boolean {
  if (baseFd < 0) return false;
  let fd = openat2(baseFd, nameFromText(path), DIRECTORY, 0, AS_OVERLAYFS);
  // A rename anywhere on the host may end a walk beneath a directory early.
  for (let tries = 0; fd === -E.AGAIN && tries < 10; tries++)
    fd = openat2(baseFd, nameFromText(path), DIRECTORY, 0, AS_OVERLAYFS);
  if (fd < 0) return false;
  close(fd);
  return true;
}
