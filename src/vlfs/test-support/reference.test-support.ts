/**
 * What a VLFS should show, worked out from the files on disk in the plainest way: no index, no cache, every level read again for every
 * directory. The oracle for tests of the real thing.
 */
import { closeSync, lstatSync, openSync, readdirSync, readFileSync, readlinkSync, type Stats } from 'node:fs';
import { join } from 'node:path';
import { fgetxattr } from '../../sys/index.ts';
import type { LevelSpec, VlfsSpec } from '../contract.ts';
import { BLOCK } from '../delta/block-map.ts';
import { decodePartial, PARTIAL_XATTR, readBases } from '../delta/partial-form.ts';

/** A directory of one level: where it is on disk, and its path in the layer. */
interface Part {
  level: number;
  path: string;
}

function lstat(path: string): Stats | null {
  try {
    return lstatSync(path);
  } catch {
    return null;
  }
}

function isWhiteout(stat: Stats | null): boolean {
  return stat?.isCharacterDevice() === true && stat.rdev === 0;
}

/** In a set: a whiteout, or a directory that is hidden while marks below it count. */
function isMark(path: string): boolean {
  const stat = lstat(path);
  return isWhiteout(stat) || (stat?.isDirectory() === true && xattr(path, 'trusted.overlay.opaque') === 'y');
}

function xattr(path: string, name: string): string | null {
  const fd = openSync(path, 'r');
  const found = fgetxattr(fd, name);
  closeSync(fd);
  return typeof found === 'number' ? null : Buffer.from(found).toString('latin1');
}

function names(dir: string): string[] {
  return lstat(dir)?.isDirectory() ? readdirSync(dir) : [];
}

const under = (path: string, name: string): string => (path === '' ? name : `${path}/${name}`);
const setDir = (level: LevelSpec): string => level.id.replaceAll(' ', '_');

/** A private file's content, block by block, when it shows a file of a layer in part. */
function contentOf(path: string, levels: readonly LevelSpec[], privateDir: string): string {
  const own = readFileSync(path);
  const fd = openSync(path, 'r');
  const value = fgetxattr(fd, PARTIAL_XATTR);
  const root = openSync(privateDir, 'r');
  const bases = readBases(root, privateDir);
  for (const open of [fd, root]) closeSync(open);
  if (typeof value === 'number') return own.latin1Slice();
  const form = decodePartial(value)!;
  const unit = levels.find(({ id }) => id === form.unit)?.treeDir ?? bases.get(form.unit)!;
  const base = readFileSync(join(unit, form.path));
  for (let block = 0; block < form.limit; block++) {
    if (form.map.runs.some(({ from, to }) => from <= block && block < to)) continue;
    const end = Math.min((block + 1) * BLOCK, own.length);
    own.fill(0, block * BLOCK, end);
    base.copy(own, block * BLOCK, block * BLOCK, Math.min(end, base.length));
  }
  return own.latin1Slice();
}

export function referenceTree(spec: VlfsSpec): Record<string, string> {
  const { levels } = spec.stack;
  const onDisk = (part: Part): string => join(levels[part.level]!.treeDir, part.path);
  const overlay = (part: Part): boolean => levels[part.level]!.kind !== 'software';

  const blocked = (part: Part): boolean =>
    levels.some(
      (upper, i) =>
        i < part.level &&
        upper.whiteoutsDir !== null &&
        isMark(join(upper.whiteoutsDir, setDir(levels[part.level]!), part.path)),
    );
  const hidden = (part: Part): boolean =>
    isMark(join(spec.whiteoutsDir, setDir(levels[part.level]!), part.path));

  const hiddenFile = (part: Part): boolean => !lstat(onDisk(part))!.isDirectory() && hidden(part);

  /** Everything that the levels hold at a name of a merged directory, top first. */
  const candidates = (dirs: Part[], name: string): Part[] => {
    const found: Part[] = [];
    for (const dir of dirs) {
      const part = { level: dir.level, path: under(dir.path, name) };
      const stat = lstat(onDisk(part));
      if (stat === null || blocked(part)) continue;
      if (overlay(part) && isWhiteout(stat)) break;
      found.push(part);
    }
    return found;
  };

  /** The directories that merge at a name. */
  const merge = (dirs: Part[], name: string, hides: (part: Part) => boolean): Part[] => {
    const merged: Part[] = [];
    for (const part of candidates(dirs, name)) {
      if (hides(part)) continue;
      if (!lstat(onDisk(part))!.isDirectory()) break;
      merged.push(part);
      if (!overlay(part)) continue;
      if (xattr(onDisk(part), 'trusted.overlay.opaque') === 'y') break;
      const redirect = xattr(onDisk(part), 'trusted.overlay.redirect');
      if (redirect === null) continue;
      let below: Part[] = levels
        .map((_, level) => ({ level, path: '' }))
        .filter(({ level }) => level > part.level);
      for (const step of redirect.split('/').filter(Boolean)) below = merge(below, step, () => false);
      merged.push(...below);
      break;
    }
    return merged;
  };

  const all: Part[] = levels.map((_, level) => ({ level, path: '' }));
  const tree: Record<string, string> = {};
  const describe = (path: string): string => {
    const stat = lstatSync(path);
    if (stat.isSymbolicLink()) return `-> ${readlinkSync(path)}`;
    if (stat.isFile()) return `file ${contentOf(path, levels, spec.privateDir)}`;
    return `special ${(stat.mode & 0o170000).toString(8)}`;
  };

  const show = (at: string, privateDir: string | null, dirs: Part[]): void => {
    const here = new Set(privateDir === null ? [] : names(privateDir));
    for (const dir of dirs) for (const name of names(onDisk(dir))) here.add(name);
    for (const name of here) {
      const path = under(at, name);
      const own = privateDir === null ? null : lstat(join(privateDir, name));
      if (isWhiteout(own)) continue;
      if (own !== null && !own.isDirectory()) {
        tree[path] = describe(join(privateDir!, name));
        continue;
      }
      let merged = merge(dirs, name, hidden);
      if (own !== null) {
        const ownDir = join(privateDir!, name);
        const redirect = xattr(ownDir, 'trusted.overlay.redirect');
        if (xattr(ownDir, 'trusted.overlay.opaque') === 'y') merged = [];
        else if (redirect !== null) {
          const steps = redirect.split('/').filter(Boolean);
          merged = all;
          for (const step of steps) merged = merge(merged, step, hiddenFile);
        }
        tree[path] = 'dir';
        show(path, ownDir, merged);
        continue;
      }
      if (merged.length > 0) {
        tree[path] = 'dir';
        show(path, null, merged);
        continue;
      }
      const top = candidates(dirs, name).find((part) => !hidden(part));
      if (top !== undefined) tree[path] = describe(onDisk(top));
    }
  };
  show('', spec.privateDir, all);
  return tree;
}
