/**
 * The merged /usr: where the paths of a package go. /bin, /sbin and /lib* are moved under /usr, and the base layer holds the links
 * bin -> usr/bin and so on, so old absolute paths stay valid. Relative symlinks whose meaning the move would change are rewritten.
 * Pure: paths in, paths out.
 */
import type { Name } from '../base/index.ts';

/** Top-level directories that are links into /usr. */
const MERGED = new Set(['bin', 'sbin', 'lib', 'lib32', 'lib64', 'libx32', 'libo32']);

/** The layer that holds the links. */
export const BASE_LAYER = 'base-files';

function firstComponent(path: string): string {
  const slash = path.indexOf('/');
  return slash < 0 ? path : path.slice(0, slash);
}

/** True when the path is moved. */
export function isMoved(path: string): boolean {
  return MERGED.has(firstComponent(path));
}

/** `bin/x` -> `usr/bin/x`; other paths as they are. */
export function mergedPath(path: Name): Name {
  return (isMoved(path) ? `usr/${path}` : path) as Name;
}

/** True for an archive's own link of the merged /usr, such as `bin -> usr/bin`: it stays where it is. */
export function isMergeLink(path: string, target: string): boolean {
  return MERGED.has(path) && (target === `usr/${path}` || target === `/usr/${path}`);
}

/** The path a symlink at `path` means, without looking at any file: normalised, '..' above the root stays at the root. */
export function resolvedTarget(path: string, target: string): string {
  const parts = target.startsWith('/') ? [] : path.split('/').slice(0, -1);
  for (const part of target.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts.join('/');
}

function relativePath(fromFile: string, to: string): string {
  const from = fromFile.split('/').slice(0, -1);
  const parts = to === '' ? [] : to.split('/');
  let common = 0;
  while (common < from.length && common < parts.length && from[common] === parts[common]) common++;
  const result = [...from.slice(common).map(() => '..'), ...parts.slice(common)].join('/');
  return result === '' ? '.' : result;
}

/**
 * The target that a symlink of the archive (at `path`, before the move) has after the move; null when it would lead to itself
 * (`bin/x -> /usr/bin/x`): then the move has made it needless, and it is left out.
 */
export function mergedLinkTarget(path: Name, target: Name): Name | null {
  const moved = mergedPath(path);
  const meaning = resolvedTarget(path, target);
  if (mergedPath(meaning as Name) === moved) return null;
  if (moved === path || target.startsWith('/')) return target;
  // Within its own top-level directory a relative target moves along.
  if (firstComponent(meaning) === firstComponent(path)) return target;
  return relativePath(moved, mergedPath(meaning as Name)) as Name;
}
