/**
 * What a VLFS shows, for those who need a part of it elsewhere: one file with its attributes, or a tree copied to a directory. Everything is read
 * through the VLFS's own operations, so a policy counts here as it does in a mount. It only looks, so the VLFS may be mounted.
 */
import { setImmediate as breathe } from 'node:timers/promises';
import { nameFromText, StrataError } from '../../base/index.ts';
import {
  AT_FDCWD,
  close,
  E,
  errnoName,
  fchmodat,
  fchownat,
  linkat,
  mkdirat,
  mknodat,
  O_CLOEXEC,
  O_CREAT,
  O_EXCL,
  O_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  openat,
  pread,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  setxattrAt,
  splitXattrList,
  symlinkat,
  utimensat,
} from '../../sys/index.ts';
import type { Attr, DirectorySink, VlfsSpec } from '../contract.ts';
import { copySparse } from '../copy-up/copy-sparse.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { openShared } from '../copy-up/shared-content.ts';
import type { Core, Node } from '../core.ts';
import { openShown } from '../delta/outside.ts';
import { partialOf } from '../delta/partial-file.ts';
import { readdir } from '../listing/readdir.ts';
import { fillAttr, newAttr } from '../nodes/attributes.ts';
import { releaseIfUnused } from '../nodes/nodes.ts';
import { closeCore, openCore } from '../open-core.ts';
import { nodeAt } from '../operations/lookup.ts';
import { readlink } from '../operations/readlink.ts';
import { getxattr, listxattr } from '../operations/xattrs.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { splitPath } from '../split-path.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';
import { runHere } from './run-here.ts';

/** What is at a path. */
export interface ShownObject {
  mode: number;
  uid: number;
  gid: number;
  /** Of a regular file up to `mostBytes`; else null. */
  content: Uint8Array | null;
}

/** What the VLFS shows at a path, or null. Links are not followed. */
export function shownAtPath(spec: VlfsSpec, path: string, mostBytes: number): ShownObject | null {
  const core = openCore(spec, { inspect: true });
  try {
    const node = find(core, splitPath(path));
    if (node === null) return null;
    const { mode, uid, gid, size } = attributesOf(core, node, path);
    const isFile = (mode & S_IFMT) === S_IFREG && size <= mostBytes;
    return { mode, uid, gid, content: isFile ? readAll(core, node, size) : null };
  } finally {
    closeCore(core);
  }
}

/**
 * Copies what the VLFS shows at `path` to `name` in the directory `into`, which must not have it. `without`: paths below `path` ('' is itself) that stay
 * behind. Returns how many objects were copied. Throws NOT_FOUND when there is nothing.
 */
export async function copyShown(
  spec: VlfsSpec,
  path: string,
  o: { into: string; name: string; without(below: string, isDirectory: boolean): boolean },
): Promise<number> {
  const core = openCore(spec, { inspect: true });
  let into = -1;
  try {
    const node = find(core, splitPath(path));
    if (node === null) {
      throw new StrataError('NOT_FOUND', `appliance ${spec.name} has no ${path}`, {
        hint: 'links are not followed, and what its policy excludes is not there',
      });
    }
    into = must(openDirectory(AT_FDCWD, nameFromText(o.into)), `open ${o.into}`);
    const state: CopyState = { core, without: o.without, links: new Map(), top: into, copied: 0 };
    await copyOne(state, node, { fd: into, name: o.name, path: o.name, below: '' });
    return state.copied;
  } finally {
    if (into >= 0) close(into);
    closeCore(core);
  }
}

function find(core: Core, parts: string[]): Node | null {
  const name = parts.pop();
  if (name === undefined) return core.root;
  const parent = directoryByPath(core, parts);
  if (parent === null) return null;
  const node = nodeAt(core, parent, name);
  return typeof node === 'number' ? null : node;
}

function must(result: number, doing: string): number {
  if (result >= 0) return result;
  throw new StrataError('IO', `cannot ${doing} (${errnoName(-result)})`);
}

function attributesOf(core: Core, node: Node, path: string): Attr {
  const attr = newAttr();
  must(fillAttr(core, node, attr), `stat ${path}`);
  return attr;
}

/** A descriptor of the content, for reading. */
function openContent(core: Core, node: Node): number {
  if (!node.priv) return openShared(node.unit!, node.entry);
  const fd = node.parent === null ? -1 : directoryFd(core, node.parent);
  const own = fd < 0 ? fd : openat(fd, node.name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
  if (own < 0 || partialOf(core, node) === null) return own;
  try {
    return openShown(own, core.bases, core.privateDir) ?? -E.STALE;
  } finally {
    close(own);
  }
}

function readAll(core: Core, node: Node, size: number): Uint8Array | null {
  const fd = openContent(core, node);
  if (fd < 0) return null;
  const content = Buffer.alloc(size);
  let done = 0;
  for (let got = 1; got > 0 && done < size; done += Math.max(got, 0))
    got = pread(fd, content.subarray(done), size - done, done);
  close(fd);
  return content.subarray(0, done);
}

interface CopyState {
  core: Core;
  without(below: string, isDirectory: boolean): boolean;
  /** First copy of each hard-linked file by st_ino: its path below `top`. */
  links: Map<number, string>;
  top: number;
  copied: number;
}

interface Target {
  fd: number;
  name: string;
  /** Its path below `top`. */
  path: string;
  /** Its path below what is copied. */
  below: string;
}

async function copyOne(state: CopyState, node: Node, target: Target): Promise<void> {
  const { core } = state;
  const { fd, name, path } = target;
  if (++state.copied % 128 === 0) await breathe();
  const attr = attributesOf(core, node, path);
  const kind = attr.mode & S_IFMT;
  const first = attr.nlink > 1 ? state.links.get(attr.ino) : undefined;
  if (kind !== S_IFDIR && first !== undefined) {
    must(linkat(state.top, first, fd, name), `link ${path}`);
    return;
  }
  if (kind === S_IFDIR) {
    must(mkdirat(fd, name, 0o700), `make ${path}`);
    const into = must(openDirectory(fd, name), `open ${path}`);
    try {
      for (const child of namesShown(core, node)) await copyChild(state, node, child, into, target);
    } finally {
      close(into);
    }
  } else if (kind === S_IFREG) await copyContent(core, node, attr.size, target);
  else if (kind === S_IFLNK) must(symlinkat(targetOf(core, node), fd, name), `make ${path}`);
  else must(mknodat(fd, name, attr.mode, attr.rdev), `make ${path}`);
  copyAttributes(core, node, attr, target);
  if (kind !== S_IFDIR && attr.nlink > 1) state.links.set(attr.ino, path);
}

async function copyChild(
  state: CopyState,
  node: Node,
  name: string,
  into: number,
  above: Target,
): Promise<void> {
  const child = nodeAt(state.core, node, name);
  if (typeof child === 'number') return;
  const below = above.below === '' ? name : `${above.below}/${name}`;
  if (!state.without(below, child.children !== null))
    await copyOne(state, child, { fd: into, name, path: `${above.path}/${name}`, below });
  releaseIfUnused(state.core, child);
}

/** The names that a directory shows. */
export function namesShown(core: Core, node: Node): string[] {
  const names: string[] = [];
  let cookie = 0;
  const sink: DirectorySink = {
    plus: false,
    add(name, _ino, _type, next) {
      names.push(name);
      cookie = next;
      return true;
    },
    hasRoomFor: () => true,
    addPlus: () => {},
  };
  for (let before = -1; before !== cookie; ) {
    before = cookie;
    must(
      runHere((caller) => readdir(core, caller, node, cookie, sink)),
      'read a directory',
    );
  }
  return names.filter((name) => name !== '.' && name !== '..');
}

function targetOf(core: Core, node: Node): string {
  const target = readlink(core, node);
  if (typeof target === 'number') must(target, 'read a link');
  return target as string;
}

async function copyContent(core: Core, node: Node, size: number, { fd, name, path }: Target): Promise<void> {
  const source = must(openContent(core, node), `open ${path}`);
  try {
    const flags = O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
    const copy = must(openat(fd, name, flags, 0o600), `make ${path}`);
    try {
      await copySparse(source, copy, size, path);
    } finally {
      close(copy);
    }
  } finally {
    close(source);
  }
}

/** Gives a copy owner, attributes, mode, times, in this order: chown clears set-user-id and capabilities. */
export function copyAttributes(
  core: Core,
  node: Node,
  attr: Attr,
  { fd, name, path }: Omit<Target, 'below'>,
): void {
  must(fchownat(fd, name, attr.uid, attr.gid), `own ${path}`);
  const list = listxattr(core, node);
  for (const attribute of typeof list === 'number' ? [] : splitXattrList(list)) {
    const value = getxattr(core, node, attribute);
    if (typeof value !== 'number')
      must(setxattrAt(fd, name, attribute, value), `set ${attribute} of ${path}`);
  }
  if ((attr.mode & S_IFMT) !== S_IFLNK) must(fchmodat(fd, name, attr.mode & 0o7777), `chmod ${path}`);
  utimensat(fd, name, attr.mtimeSec, attr.mtimeNsec, attr.mtimeSec, attr.mtimeNsec);
}
