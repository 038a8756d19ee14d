/**
 * What an appliance changed: its private layer, frozen ones and whiteouts against the layers. It only looks, so it works on a mounted VLFS too. The cost is
 * that of the private layer; a copy of equal size is compared by digest.
 */
import { createHash } from 'node:crypto';
import { compareNames, LIMITS, type Name, nameToText } from '../../base/index.ts';
import {
  close,
  getxattrAt,
  listxattrAt,
  newStat,
  O_CLOEXEC,
  O_DIRECTORY,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  openat,
  pread,
  readDirectory,
  readlinkat,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  splitXattrList,
  statAt,
} from '../../sys/index.ts';
import type { DiffEntry, VlfsSpec } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { contentTag, decodeOrigin, ORIGIN_XATTR } from '../copy-up/origin.ts';
import type { Core, Node } from '../core.ts';
import { loadPartial, openBase, type Partial } from '../delta/partial-file.ts';
import { readPartial } from '../delta/partial-io.ts';
import { closeCore, openCore } from '../open-core.ts';
import { isInternal } from '../operations/internal-xattrs.ts';
import { candidatesAt, NOTHING, nodeAt, resolve } from '../operations/lookup.ts';
import { isWhiteoutEntry } from '../operations/remove-ops.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { splitPath } from '../split-path.ts';
import { childDirectory, originalOf } from '../stack/child-directories.ts';
import {
  entryOf,
  isHidden,
  levelOf,
  type MergedDirectory,
  NOTHING_HIDDEN,
  type Reference,
  reference,
  topOf,
  unitOf,
} from '../stack/merged-directory.ts';
import { namesOf } from '../stack/merged-names.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

const DIRECTORY = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

interface Found {
  path: string;
  change: DiffEntry['change'];
  layer: string | null;
  baseUpdated: boolean;
}

/** The changes of an appliance at and below `path` (default: all), ordered by path; `beyond` is told of paths that are too long. Throws when its private layer or stack cannot be read. */
export function diffVlfs(spec: VlfsSpec, path = '/', beyond: (path: string) => void = () => {}): DiffEntry[] {
  const core = openCore(spec, { inspect: true });
  try {
    const parts = splitPath(path);
    const prefix = parts.join('/');
    const found = new Map<string, Found>();
    const within = (at: string): boolean =>
      prefix === '' || at === prefix || at.startsWith(`${prefix}/`) || prefix.startsWith(`${at}/`);
    walk({ core, found, within, beyond });
    addHidden(core, found);
    return [...found.values()]
      .filter((entry) => prefix === '' || entry.path === prefix || entry.path.startsWith(`${prefix}/`))
      .sort((a, b) => compareNames(a.path, b.path))
      .map((entry) => ({
        path: `/${nameToText(entry.path)}`,
        change: entry.change,
        layer: entry.layer,
        base_updated: entry.baseUpdated,
      }));
  } finally {
    closeCore(core);
  }
}

function owner(core: Core, refs: readonly Reference[]): string | null {
  return refs.length === 0 ? null : unitOf(core.stack, refs[0]!).id;
}

const stat = newStat();

/** Everything that the private layer and frozen ones hold. What no path leads to, because it would be too long, is left out: its directory is there. */
function walk(walking: Walk): void {
  const pending: Place[] = [{ node: walking.core.root, path: '' }];
  for (let next = pending.pop(); next !== undefined; next = pending.pop())
    addChildren(walking, next, pending);
}

interface Walk {
  core: Core;
  found: Map<string, Found>;
  within(path: string): boolean;
  /** Told of names whose paths are too long (LIMITS.pathBytes). */
  beyond(path: string): void;
}

interface Place {
  node: Node;
  path: string;
}

/** A directory on disk whose entries are the appliance's own: of the private layer, or of a frozen one. */
interface Source {
  fd: number;
  /** Whether a name of it does not count any more. */
  isHidden(name: string): boolean;
}

/** Top first. The caller closes the descriptors. */
export function sourcesOf(core: Core, node: Node): Source[] {
  const sources: Source[] = [];
  const base = node.priv ? directoryFd(core, node) : -1;
  if (base >= 0) sources.push({ fd: openDirectory(base, '.'), isHidden: () => false });
  for (const ref of node.merged?.contributors ?? []) {
    const { frozen } = unitOf(core.stack, ref);
    if (frozen === null) continue;
    // What a policy leaves out is not among the names.
    const names = namesOf(node.merged!);
    const isEntryHidden = (name: string): boolean => {
      const candidates = names.get(name) ?? [];
      const entry = reference(levelOf(ref), frozen.child(entryOf(ref), name as Name));
      const own = (typeof candidates === 'number' ? [candidates] : candidates).find(
        (one) => one === entry || one === -1 - entry,
      );
      return own === undefined || isHidden(core.hidden, own);
    };
    sources.push({ fd: frozen.open(entryOf(ref), DIRECTORY), isHidden: isEntryHidden });
  }
  return sources.filter(({ fd }) => fd >= 0);
}

function addChildren({ core, found, within, beyond }: Walk, { node, path }: Place, pending: Place[]): void {
  const sources = sourcesOf(core, node);
  const seen = new Set<string>();
  try {
    for (const { fd, isHidden: isNameHidden } of sources) {
      const entries = readDirectory(fd);
      for (const { name, type } of typeof entries === 'number' ? [] : entries) {
        const at = path === '' ? name : `${path}/${name}`;
        if (seen.has(name) || !within(at) || isNameHidden(name)) continue;
        seen.add(name);
        if (at.length > LIMITS.pathBytes) {
          beyond(at);
          continue;
        }
        const shared = candidatesAt(node, name);
        if (isWhiteoutEntry(fd, name, type)) {
          if (shared.length > 0)
            found.set(at, { path: at, change: 'deleted', layer: owner(core, shared), baseUpdated: false });
        } else if (statAt(fd, name, stat) === 0) {
          if ((stat.mode & S_IFMT) === S_IFDIR) {
            const child = addDirectory(core, node, name, at, fd, shared, found);
            if (child !== null) pending.push({ node: child, path: at });
          } else addFile(core, fd, name, at, shared, found);
        }
      }
    }
  } finally {
    for (const { fd } of sources) close(fd);
  }
}

function addFile(
  core: Core,
  fd: number,
  name: string,
  path: string,
  shared: readonly Reference[],
  found: Map<string, Found>,
): void {
  const change = shared.length === 0 ? 'added' : compare(core, fd, name, shared[0]!);
  if (change === null) return;
  const origin = decodeOrigin(getxattrAt(fd, name, ORIGIN_XATTR));
  const baseUpdated =
    shared.length > 0 &&
    origin !== null &&
    origin.path === path &&
    origin.content !== contentTag(unitOf(core.stack, shared[0]!), entryOf(shared[0]!));
  found.set(path, { path, change, layer: owner(core, shared), baseUpdated });
}

/** How the private object `name` (its stat is in `stat`) differs from a shared entry; null when it does not. */
function compare(core: Core, fd: number, name: string, ref: Reference): DiffEntry['change'] | null {
  const { index } = unitOf(core.stack, ref);
  const entry = entryOf(ref);
  const mode = index.mode(entry);
  const kind = mode & S_IFMT;
  if (kind !== (stat.mode & S_IFMT)) return 'changed';
  const { mode: ownMode, uid, gid, size, rdev, mtimeSec, mtimeNsec } = stat;
  if (kind === S_IFREG) {
    if (size !== index.size(entry)) return 'changed';
    if (size > 0 && !hasContentOf(core, fd, name, ref)) return 'changed';
  } else if (kind === S_IFLNK) {
    if (readlinkat(fd, name) !== index.symlinkTarget(entry)) return 'changed';
  } else if ((kind === S_IFCHR || kind === S_IFBLK) && rdev !== index.rdev(entry)) return 'changed';
  const same =
    ownMode === mode &&
    uid === index.uid(entry) &&
    gid === index.gid(entry) &&
    mtimeSec === index.mtimeSec(entry) &&
    mtimeNsec === index.mtimeNsec(entry) &&
    sameXattrs(core, fd, name, ref);
  return same ? null : 'metadata';
}

function sameXattrs(core: Core, fd: number, name: string, ref: Reference): boolean {
  const { index } = unitOf(core.stack, ref);
  const original: ReadonlyMap<string, Uint8Array> = index.hasXattrs(entryOf(ref))
    ? index.xattrs(entryOf(ref))
    : new Map();
  const list = listxattrAt(fd, name);
  const own = (typeof list === 'number' ? [] : splitXattrList(list)).filter(
    (attribute) => !isInternal(attribute),
  );
  const theirs = [...original.keys()].filter((attribute) => !isInternal(attribute));
  return (
    own.length === theirs.length &&
    theirs.every((attribute) => {
      const value = getxattrAt(fd, name, attribute);
      return typeof value !== 'number' && Buffer.compare(value, original.get(attribute)!) === 0;
    })
  );
}

const chunk = Buffer.allocUnsafeSlow(1 << 20);

/** Whether a private file has the content of a shared one. A metadata-only copy of that very file has. */
function hasContentOf(core: Core, fd: number, name: string, ref: Reference): boolean {
  const { id, index } = unitOf(core.stack, ref);
  const entry = entryOf(ref);
  const partial = loadPartial(fd, name, true);
  if (partial?.form.meta && partial.form.unit === id) {
    if (partial.form.path === index.path(entry)) return true;
    if (partial.form.path === index.path(index.hardLinkLeader(entry))) return true;
  }
  return digestOf(core, fd, name, partial) === index.digest(entry);
}

function digestOf(core: Core, dirfd: number, name: string, partial: Partial | null): string | null {
  const fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return null;
  const baseFd = partial === null ? -1 : openBase(core, partial.form);
  const digest = createHash('sha256');
  try {
    if (partial !== null && baseFd < 0) return null;
    for (let at = 0; ; ) {
      const got =
        partial === null
          ? pread(fd, chunk, chunk.length, at)
          : readPartial({ fd, baseFd }, partial, at, chunk);
      if (got < 0) return null;
      if (got === 0) return digest.digest('hex');
      digest.update(chunk.subarray(0, got));
      at += got;
    }
  } finally {
    if (baseFd >= 0) close(baseFd);
    close(fd);
  }
}

function addDirectory(
  core: Core,
  parent: Node,
  name: string,
  path: string,
  fd: number,
  shared: readonly Reference[],
  found: Map<string, Found>,
): Node | null {
  const { mode, uid, gid } = stat;
  const node = nodeAt(core, parent, name);
  if (typeof node === 'number' || node.children === null) return null;
  const below = parent.merged === null ? null : originalOf(parent.merged);
  const natural = below === null ? null : childDirectory(below, name, NOTHING_HIDDEN);
  if (natural === null) {
    found.set(path, {
      path,
      change: shared.length > 0 ? 'changed' : 'added',
      layer: owner(core, shared),
      baseUpdated: false,
    });
  } else {
    const ref = topOf(natural);
    const { index } = unitOf(core.stack, ref);
    const entry = entryOf(ref);
    const same =
      mode === index.mode(entry) &&
      uid === index.uid(entry) &&
      gid === index.gid(entry) &&
      sameXattrs(core, fd, name, ref);
    if (!same) found.set(path, { path, change: 'metadata', layer: owner(core, shared), baseUpdated: false });
    if (!shows(node, natural)) missing(core, node, natural, path, found);
  }
  return node;
}

/** Whether the directory shows what the layers have at its place: it is neither opaque nor redirected. */
function shows({ merged }: Node, natural: MergedDirectory): boolean {
  const original = merged === null ? null : originalOf(merged);
  if (original === null || original === merged) return original?.path === natural.path;
  return original.contributors.join() === natural.contributors.join();
}

/** The shared names that an opaque or redirected directory no longer shows. */
function missing(
  core: Core,
  node: Node,
  natural: NonNullable<Node['merged']>,
  path: string,
  found: Map<string, Found>,
): void {
  for (const [name, candidates] of namesOf(natural)) {
    if (resolve(core, node, name) !== NOTHING) continue;
    const at = `${path}/${name}`;
    const refs = typeof candidates === 'number' ? [candidates] : candidates;
    found.set(at, { path: at, change: 'deleted', layer: owner(core, refs), baseUpdated: false });
  }
}

/** The names that whiteouts of the layers' sets hide, where nothing shows in their place. */
function addHidden(core: Core, found: Map<string, Found>): void {
  for (const [level, set] of core.hidden.levels.entries()) {
    if (core.stack.units[level]?.frozen !== null) continue;
    for (const entry of set ?? []) {
      const path: string = core.stack.units[level]!.index.path(entry);
      if (found.has(path)) continue;
      const parts = path.split('/');
      const name = parts.pop()!;
      const parent = directoryByPath(core, parts);
      if (parent === null || resolve(core, parent, name) !== NOTHING) continue;
      const shared = candidatesAt(parent, name);
      if (!shared.includes(reference(level, entry))) continue;
      found.set(path, { path, change: 'deleted', layer: owner(core, shared), baseUpdated: false });
    }
  }
}
