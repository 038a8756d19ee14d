/**
 * The names of nodes: which node is at a name, attaching, detaching, forgetting. Memory is bounded by what the kernel remembers: a node
 * goes when the kernel forgot it, nobody has it open and no child of it is known.
 */
import { close } from '../../sys/index.ts';
import { type Core, forgetShared, type Node } from '../core.ts';
import { dropListing } from '../listing/listings.ts';
import { dropDirectoryFd } from '../private-layer/directory-fds.ts';
import { dropParked } from '../private-layer/parked-files.ts';
import { countNodes } from './shares.ts';

/** A name among the further names of a node. */
export const nameKey = (parent: Node, name: string): string => `${parent.id}/${name}`;

/** Gives a node one more name. */
export function attachName(core: Core, node: Node, parent: Node, name: string): void {
  parent.children!.set(name, node);
  node.gone = null;
  if (node.parent === null) {
    node.parent = parent;
    node.name = name;
    core.ledger?.changed(node);
  } else if (node.parent !== parent || node.name !== name) {
    const key = nameKey(parent, name);
    node.moreNames ??= new Map();
    node.moreNames.set(key, { parent, name });
    core.ledger?.named(node, key, parent, name);
  }
}

/** Takes a name from the node that has it. The node stays for those who hold it. */
export function detachName(core: Core, parent: Node, name: string): void {
  const node = parent.children!.get(name);
  if (node === undefined) return;
  parent.children!.delete(name);
  if (node.parent === parent && node.name === name) {
    const next = node.moreNames?.entries().next().value;
    node.parent = next?.[1].parent ?? null;
    node.name = next?.[1].name ?? '';
    core.ledger?.changed(node);
    if (next !== undefined) {
      node.moreNames!.delete(next[0]);
      core.ledger?.unnamed(node, next[0]);
    }
  } else {
    const key = nameKey(parent, name);
    node.moreNames?.delete(key);
    core.ledger?.unnamed(node, key);
  }
  if (node.moreNames?.size === 0) node.moreNames = null;
  if (node.children !== null) dropDirectoryFd(node);
  if (node.parent === null) dropParked(core, node);
  releaseIfUnused(core, node);
}

/** The file has no name in the tree any more: later files may take its inode number. */
export function forgetInode(core: Core, node: Node): void {
  if (core.byPrivateIno.get(node.privIno) === node) core.byPrivateIno.delete(node.privIno);
  forgetShared(core, node);
}

/** FORGET: the kernel gives back `count` references. */
export function forget(core: Core, id: number, count: number): void {
  const node = core.nodes.get(id);
  if (node === undefined) return;
  node.lookups = Math.max(0, node.lookups - count);
  core.ledger?.counted(node);
  releaseIfUnused(core, node);
}

/** Drops the node, and its parents that lived for it only, when nothing needs it. */
export function releaseIfUnused(core: Core, node: Node): void {
  for (let at: Node | null = node; at !== null; ) {
    if (at === core.root || at.lookups > 0 || at.opens > 0 || at.copyUp !== null || at.partial?.filling)
      return;
    if (at.children !== null && at.children.size > 0) return;
    if (!core.nodes.delete(at.id)) return;
    countNodes(-1);
    core.ledger?.forgotten(at);
    const parent: Node | null = at.parent;
    if (parent?.children?.get(at.name) === at) parent.children.delete(at.name);
    for (const other of at.moreNames?.values() ?? []) {
      if (other.parent.children!.get(other.name) === at) other.parent.children!.delete(other.name);
    }
    forgetInode(core, at);
    if (at.children !== null) {
      dropDirectoryFd(at);
      dropListing(at);
      core.listed.delete(at.id);
    }
    if (at.backing !== null && at.backing.opens === 0 && at.backing.fd >= 0) close(at.backing.fd);
    dropParked(core, at);
    at = parent;
  }
}

/** Path for messages and for `trusted.strata.origin`, latin1, '' for the root, or null when the node has no name. */
export function pathOf(core: Core, parent: Node, name: string): string | null {
  let path = name;
  for (let at = parent; at !== core.root; at = at.parent) {
    if (at.parent === null) return null;
    path = `${at.name}/${path}`;
  }
  return path;
}
