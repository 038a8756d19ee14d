/**
 * The merged tree of a stack as inodes of an image, less what the appliance's whiteouts hide. Regular files point to their data by
 * `trusted.overlay.redirect`. A directory that was renamed away stays at its place, because overlayfs follows the private layer's redirect
 * to it; the private layer hides it there (hide-kept.ts).
 */
import { LIMITS, type Name, nameToText, StrataError } from '../../base/index.ts';
import type { ErofsChild, ErofsInode } from '../../formats/index.ts';
import { S_IFMT, S_IFREG } from '../../sys/index.ts';
import { isCarried } from '../operations/internal-xattrs.ts';
import { childDirectory, directoryAt } from '../stack/child-directories.ts';
import {
  entryOf,
  type HiddenEntries,
  isDirectory,
  levelOf,
  type MergedDirectory,
  mergedTimes,
  REDIRECT,
  type Reference,
  topOf,
  unitOf,
} from '../stack/merged-directory.ts';
import { namesOf, visibleOf } from '../stack/merged-names.ts';
import type { Stack } from '../stack/stack.ts';
import { withAncestors } from './image-walk.ts';

const METACOPY = 'trusted.overlay.metacopy';
const EMPTY = new Uint8Array(0);

interface View {
  stack: Stack;
  hidden: HiddenEntries;
  targets: ReadonlySet<string>;
  /** Per path, the names in it by which targets are reached. */
  ways: ReadonlyMap<string, ReadonlySet<string>>;
  prefixes: readonly string[];
  /** Hard-linked inodes by the reference of their leading entry. */
  linked: Map<Reference, ErofsInode>;
}

/**
 * The root of the tree. `targets`: paths in the layers to which redirects of the private layer lead. `prefixes`: where each level's tree lies in
 * its data layer. Throws LIMIT for paths that overlayfs cannot follow.
 */
export function mergedInodes(
  stack: Stack,
  hidden: HiddenEntries,
  targets: ReadonlySet<string>,
  prefixes: readonly string[],
): ErofsInode {
  const view: View = { stack, hidden, targets, ways: waysTo(targets), prefixes, linked: new Map() };
  return directoryInode(view, '', stack.root);
}

function waysTo(targets: ReadonlySet<string>): Map<string, Set<string>> {
  const ways = new Map<string, Set<string>>();
  for (const path of withAncestors(targets)) {
    const slash = path.lastIndexOf('/');
    const parent = slash < 0 ? '' : path.slice(0, slash);
    const names = ways.get(parent) ?? new Set();
    ways.set(parent, names.add(path.slice(slash + 1)));
  }
  return ways;
}

/** `shown`: what the directory shows; null when it stands in the image only for the targets below it. */
function directoryInode(view: View, path: string, shown: MergedDirectory | null): ErofsInode {
  const ways = view.ways.get(path);
  const children: ErofsChild[] = [];
  if (shown !== null) addShown(view, shown, ways, children);
  for (const name of ways ?? []) {
    const inode = wayInode(view, path === '' ? name : `${path}/${name}`, name, shown);
    if (inode !== null) children.push({ name: name as Name, inode });
  }
  const attributes = shown ?? directoryAt(view.stack, path, view.hidden);
  const ref = attributes === null ? -1 : topOf(attributes);
  if (attributes === null || ref < 0)
    return { mode: 0o040755, uid: 0, gid: 0, mtimeSec: 0, mtimeNsec: 0, children };
  return { ...attributesOf(view.stack, ref), ...mergedTimes(attributes), children };
}

function addShown(
  view: View,
  directory: MergedDirectory,
  without: ReadonlySet<string> | undefined,
  children: ErofsChild[],
): void {
  const dataPaths = new Map<number, string>();
  for (const ref of directory.contributors) {
    const path = unitOf(view.stack, ref).index.path(entryOf(ref));
    dataPaths.set(levelOf(ref), `${view.prefixes[levelOf(ref)]!}/${path === '' ? '' : `${path}/`}`);
  }
  for (const [name, candidates] of namesOf(directory)) {
    if (without?.has(name)) continue;
    const inode = inodeAt(view, directory, name, candidates, dataPaths);
    if (inode !== null) children.push({ name: name as Name, inode });
  }
}

/** A name on the way to a target; null where something else than a directory ended it. */
function wayInode(view: View, path: string, name: string, parent: MergedDirectory | null): ErofsInode | null {
  const reached = directoryAt(view.stack, path, view.hidden);
  if (reached === null) {
    const candidates = parent === null ? undefined : namesOf(parent).get(name);
    return parent === null || candidates === undefined ? null : inodeAt(view, parent, name, candidates, null);
  }
  if (view.targets.has(path)) return directoryInode(view, path, reached);
  return directoryInode(view, path, parent === null ? null : childDirectory(parent, name, view.hidden));
}

function inodeAt(
  view: View,
  parent: MergedDirectory,
  name: string,
  candidates: Reference | Reference[],
  dataPaths: ReadonlyMap<number, string> | null,
): ErofsInode | null {
  const ref = visibleOf(candidates, view.hidden);
  if (ref < 0) return null;
  if (isDirectory(view.stack, ref)) {
    const directory = childDirectory(parent, name, view.hidden);
    return directory === null ? null : directoryInode(view, directory.path, directory);
  }
  const { index } = unitOf(view.stack, ref);
  const prefix = dataPaths?.get(levelOf(ref));
  const dataPath =
    prefix === undefined ? `${view.prefixes[levelOf(ref)]!}/${index.path(entryOf(ref))}` : prefix + name;
  if (index.nlink(entryOf(ref)) < 2) return fileInode(view, ref, dataPath);
  const leader = ref - entryOf(ref) + index.hardLinkLeader(entryOf(ref));
  const known = view.linked.get(leader);
  if (known !== undefined) return known;
  const inode = fileInode(view, ref, dataPath);
  view.linked.set(leader, inode);
  return inode;
}

function attributesOf(stack: Stack, ref: Reference): ErofsInode {
  const { index } = unitOf(stack, ref);
  const entry = entryOf(ref);
  return {
    mode: index.mode(entry),
    uid: index.uid(entry),
    gid: index.gid(entry),
    mtimeSec: index.mtimeSec(entry),
    mtimeNsec: index.mtimeNsec(entry),
    xattrs: index.hasXattrs(entry) ? visibleXattrs(index.xattrs(entry)) : undefined,
  };
}

function visibleXattrs(all: ReadonlyMap<Name, Uint8Array>): ReadonlyMap<Name, Uint8Array> {
  return new Map([...all].filter(([name]) => isCarried(name)));
}

/** `dataPath` is absolute in a data layer. */
function fileInode(view: View, ref: Reference, dataPath: string): ErofsInode {
  const inode = attributesOf(view.stack, ref);
  const { index } = unitOf(view.stack, ref);
  const entry = entryOf(ref);
  inode.rdev = index.rdev(entry);
  if ((inode.mode & S_IFMT) === 0o120000) inode.target = index.symlinkTarget(entry);
  if ((inode.mode & S_IFMT) !== S_IFREG) return inode;
  inode.size = index.size(entry);
  // An empty file needs no data.
  if (inode.size === 0) return inode;
  if (dataPath.length > LIMITS.pathBytes) {
    throw new StrataError('LIMIT', `the path ${nameToText(dataPath)} is too long for a sealed mount`, {
      hint: 'use the door fuse',
    });
  }
  inode.xattrs = new Map<Name, Uint8Array>([
    [REDIRECT as Name, Buffer.from(dataPath, 'latin1')],
    [METACOPY as Name, EMPTY],
    ...(inode.xattrs ?? []),
  ]);
  return inode;
}
