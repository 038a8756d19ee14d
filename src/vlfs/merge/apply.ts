/**
 * Brings the changes of a plan into an open VLFS that shows what the parent shows, over an empty private layer of its own. All is done by the VLFS's own operations, as a
 * program in the parent would do it; so whiteouts, hard links, renamed directories and policies are what they would be then. Only content and attributes of what was just
 * made are written past them.
 */
import { compareNames, nameToText } from '../../base/index.ts';
import {
  close,
  O_CLOEXEC,
  O_NOFOLLOW,
  O_RDWR,
  openat,
  removexattrAt,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
  setxattrAt,
  splitXattrList,
  utimensat,
} from '../../sys/index.ts';
import { type Change, comparePair, type Difference } from '../compare/compare.ts';
import { closeSource, openSource } from '../compare/content.ts';
import { rawXattr } from '../compare/raw-xattrs.ts';
import { attrOf } from '../compare/same-object.ts';
import type { Caller, EntryOut } from '../contract.ts';
import { copySparse } from '../copy-up/copy-sparse.ts';
import { copyUp } from '../copy-up/copy-up.ts';
import type { Core, Node } from '../core.ts';
import { copyPartial } from '../delta/outside.ts';
import { systemFailure } from '../failure.ts';
import { fillAttr, newAttr } from '../nodes/attributes.ts';
import { mkdir, mknod, symlink } from '../operations/create-ops.ts';
import { isInternal } from '../operations/internal-xattrs.ts';
import { link } from '../operations/link.ts';
import { nodeAt, refresh } from '../operations/lookup.ts';
import { readlink } from '../operations/readlink.ts';
import { rename } from '../operations/rename.ts';
import { listxattr } from '../operations/xattrs.ts';
import { MARK_XATTR } from '../policy/marks.ts';
import { runHere } from '../policy/run-here.ts';
import { copyAttributes } from '../policy/shown.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { type Applying, endOf, must } from './applying.ts';
import { type Plan, pathsAbove, type Sides, withNode } from './plan.ts';
import { removeAt, removeOne } from './remove-objects.ts';

const entry = (): EntryOut => ({
  nodeId: 0,
  generation: 0,
  attr: newAttr(),
  entryValidMs: 0,
  attrValidMs: 0,
});

/** Throws when something cannot be done; what was done in the VLFS until then is of no use. */
export async function applyMerge(sides: Sides, core: Core, plan: Plan): Promise<void> {
  const applying: Applying = {
    sides,
    core,
    puts: new Map(plan.puts),
    removes: new Set(plan.removes),
    placed: new Map(),
    inodes: plan.inodes,
    names: pathsByInode(plan.inodes),
    moved: [],
    made: [],
  };
  await putAll(applying, plan.puts);
  for (const path of [...applying.removes].sort(compareNames).reverse()) removeAt(applying, path);
  for (const path of applying.made.reverse()) setDirectoryTimes(applying, path);
}

/** Parents come first. */
async function putAll(applying: Applying, puts: ReadonlyMap<string, Change>): Promise<void> {
  for (const [path, change] of puts) {
    if (!applying.puts.has(path)) continue;
    if (change === 'added' && (await moveHere(applying, path))) continue;
    await put(applying, path, change);
  }
}

/** Where a path of the parent is by now. */
function nowAt({ moved }: Applying, path: string): string {
  let at = path;
  for (const { from, to } of moved)
    if (at === from || at.startsWith(`${from}/`)) at = `${to}${at.slice(from.length)}`;
  return at;
}

/**
 * A directory of layers that the child has renamed is renamed here too, when the parent still has it as it was and it would go from its place; then what differs below it is brought
 * over. False: it is to be made anew.
 */
async function moveHere(applying: Applying, path: string): Promise<boolean> {
  const { sides, core } = applying;
  const sources = withNode(sides.child, path, (node) =>
    node?.kind === S_IFDIR && node.merged !== null ? [node.merged.path, node.merged.originalPath] : [],
  );
  for (const source of new Set(sources)) {
    const from = nowAt(applying, source);
    const goes = [...pathsAbove(from), from].some((at) => applying.removes.has(at));
    if (from === '' || from === path || !goes || path.startsWith(`${from}/`)) continue;
    const isThere = withNode(core, from, (node) => node?.kind === S_IFDIR);
    if (!isThere) continue;
    makeParents(applying, path);
    if (renameTo(core, from, path) < 0) continue;
    applying.moved.push({ from, to: path });
    applying.removes.delete(from);
    for (const at of [...applying.removes])
      if (at.startsWith(`${from}/`)) {
        applying.removes.delete(at);
        applying.removes.add(`${path}${at.slice(from.length)}`);
      }
    await bringRest(applying, path);
    return true;
  }
  return false;
}

function renameTo(core: Core, from: string, to: string): number {
  const source = endOf(core, from);
  const target = endOf(core, to);
  return runHere((caller) => rename(core, caller, source, target, 0));
}

/** What still differs below a directory that was renamed. */
async function bringRest(applying: Applying, path: string): Promise<void> {
  const { sides, core } = applying;
  for (const below of [...applying.puts.keys()])
    if (below === path || below.startsWith(`${path}/`)) applying.puts.delete(below);
  const left = endOf(core, path);
  const right = endOf(sides.child, path);
  const one = nodeAt(core, left.parent, left.name) as Node;
  const two = nodeAt(sides.child, right.parent, right.name) as Node;
  const rest = new Map<string, Change>();
  const visit = ({ path: at, change }: Difference): void => {
    if (change === 'deleted') applying.removes.add(at);
    else if (change !== 'same') rest.set(at, change);
  };
  comparePair(core, sides.child, { path, left: one, right: two }, { visit });
  rest.set(path, 'metadata');
  applying.made.push(path);
  const sorted = new Map([...rest].sort(([a], [b]) => compareNames(a, b)));
  for (const [at, change] of sorted) applying.puts.set(at, change);
  await putAll(applying, sorted);
}

/** Makes a path what the child has there. */
async function put(applying: Applying, path: string, change: Change): Promise<void> {
  const { sides, core } = applying;
  if (path === '') {
    giveAttributes(applying, path, sides.child.root);
    return;
  }
  const source = endOf(sides.child, path);
  const theirs = nodeAt(sides.child, source.parent, source.name);
  if (typeof theirs === 'number') return;
  makeParents(applying, path);
  const { parent, name } = endOf(core, path);
  const there = nodeAt(core, parent, name);
  if (theirs.kind === S_IFDIR) {
    if (typeof there !== 'number' && there.kind !== S_IFDIR) removeOne(applying, path, parent, name, there);
    if (typeof there === 'number' || there.kind !== S_IFDIR) {
      must(
        runHere((caller) => mkdir(core, caller, parent, name, 0o700, entry())),
        path,
      );
      applying.made.push(path);
    } else if (change === 'added') applying.made.push(path);
    giveAttributes(applying, path, theirs);
    return;
  }
  const keeps = change === 'metadata' && !isLinked(applying, path);
  if (keeps && typeof there !== 'number' && there.kind === theirs.kind && isAlone(core, there)) {
    must(copied(core, there), path);
    giveAttributes(applying, path, theirs);
    return;
  }
  if (typeof there !== 'number') removeOne(applying, path, parent, name, there);
  const inode = applying.inodes.get(path);
  const first = inode === undefined ? undefined : applying.placed.get(inode);
  if (first !== undefined) {
    const linked = linkTo(core, first, parent, name);
    if (linked >= 0) return;
  }
  await make(applying, path, parent, name, theirs);
  giveAttributes(applying, path, theirs);
  if (inode !== undefined) applying.placed.set(inode, path);
}

/** Whether the child has the file under another name too that is brought over. */
function isLinked({ inodes, names, puts }: Applying, path: string): boolean {
  const inode = inodes.get(path);
  if (inode === undefined) return false;
  return names.get(inode)!.some((other) => other !== path && puts.has(other));
}

function pathsByInode(inodes: ReadonlyMap<string, string>): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const [path, inode] of inodes) {
    const paths = found.get(inode);
    if (paths === undefined) found.set(inode, [path]);
    else paths.push(path);
  }
  return found;
}

/** A file with one name: what happens to it happens to no other. */
function isAlone(core: Core, node: Node): boolean {
  const attr = newAttr();
  return fillAttr(core, node, attr) >= 0 && attr.nlink === 1;
}

/** Gives a file a private copy of its own. */
function copied(core: Core, node: Node): number {
  return node.priv ? 0 : runHere((caller) => copyUp(core, caller, node));
}

/** Directories above that the parent deleted, when the child's version was asked for. */
function makeParents(applying: Applying, path: string): void {
  const { sides, core } = applying;
  for (const above of pathsAbove(path)) {
    const { parent, name } = endOf(core, above);
    const there = nodeAt(core, parent, name);
    if (typeof there !== 'number' && there.kind === S_IFDIR) continue;
    if (typeof there !== 'number') removeOne(applying, above, parent, name, there);
    must(
      runHere((caller) => mkdir(core, caller, parent, name, 0o700, entry())),
      above,
    );
    withNode(sides.child, above, (node) => {
      if (node !== null) giveAttributes(applying, above, node);
    });
  }
}

function linkTo(core: Core, first: string, parent: Node, name: string): number {
  const source = endOf(core, first);
  const node = nodeAt(core, source.parent, source.name);
  if (typeof node === 'number') return -1;
  return runHere((caller) => link(core, caller, node, parent, name, entry()));
}

async function make(
  { sides, core }: Applying,
  path: string,
  parent: Node,
  name: string,
  theirs: Node,
): Promise<void> {
  const attr = attrOf(sides.child, theirs);
  if (attr === null) throw systemFailure(-2, `read ${nameToText(path as never)}`);
  const create = (caller: Caller): number => {
    if (theirs.kind !== S_IFLNK) {
      const rdev = theirs.kind === S_IFREG ? 0 : attr.rdev;
      return mknod(core, caller, parent, name, theirs.kind | 0o600, rdev, entry());
    }
    const target = readlink(sides.child, theirs);
    return typeof target === 'number' ? target : symlink(core, caller, parent, name, target, entry());
  };
  must(runHere(create), path);
  if (theirs.kind === S_IFREG && attr.size > 0)
    await fill(sides.child, theirs, core, parent, name, attr.size);
}

async function fill(
  child: Core,
  theirs: Node,
  core: Core,
  parent: Node,
  name: string,
  size: number,
): Promise<void> {
  const source = openSource(child, theirs);
  try {
    const to = openat(directoryFd(core, parent), name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    must(to, name);
    try {
      if (source.partial === null) await copySparse(source.fd, to, size, nameToText(name as never));
      else await copyPartial(source.partial, to);
    } finally {
      close(to);
    }
  } finally {
    closeSource(source);
  }
}

/** Owner, mode, extended attributes and times of the child's object, to what stands at the path in the private layer. */
function giveAttributes({ sides, core }: Applying, path: string, theirs: Node): void {
  const { node, fd, name } = placeToChange(core, path);
  const attr = attrOf(sides.child, theirs);
  if (attr === null) throw systemFailure(-2, `read ${nameToText(path as never)}`);
  const wanted = listxattr(sides.child, theirs);
  const keep = new Set(typeof wanted === 'number' ? [] : splitXattrList(wanted));
  const list = listxattr(core, node);
  for (const attribute of typeof list === 'number' ? [] : splitXattrList(list))
    if (!keep.has(attribute) && !isInternal(attribute)) removexattrAt(fd, name, attribute);
  copyAttributes(sides.child, theirs, attr, { fd, name, path });
  const mark = rawXattr(sides.child, theirs, MARK_XATTR);
  if (mark !== null) must(setxattrAt(fd, name, MARK_XATTR, mark), path);
  if (node.kind !== S_IFDIR) return;
  // What new objects in it inherit may be another now.
  node.generation = -1;
  must(refresh(core, node), path);
}

/** The object at a path of the private layer, by an open directory and a name in it. */
function placeToChange(core: Core, path: string): { node: Node; fd: number; name: string } {
  if (path === '') return { node: core.root, fd: core.rootFd, name: '.' };
  const { parent, name } = endOf(core, path);
  const node = nodeAt(core, parent, name) as Node;
  if (node.kind === S_IFDIR) must(privateDirectory(core, node), path);
  const fd = privateDirectory(core, parent);
  must(fd, path);
  return { node, fd, name };
}

function setDirectoryTimes({ sides, core }: Applying, path: string): void {
  withNode(sides.child, path, (theirs) => {
    const attr = theirs === null ? null : attrOf(sides.child, theirs);
    if (attr === null) return;
    const { parent, name } = endOf(core, path);
    const fd = directoryFd(core, parent);
    if (fd >= 0) utimensat(fd, name, attr.mtimeSec, attr.mtimeNsec, attr.mtimeSec, attr.mtimeNsec);
  });
}
