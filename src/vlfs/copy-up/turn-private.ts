/** What a node is when its object has become private: itself, or a new node in its place when its old content is open through passthrough. */
import { type Core, type Node, newNode } from '../core.ts';
import type { Partial } from '../delta/partial-file.ts';
import { attachName, detachName, forgetInode, releaseIfUnused } from '../nodes/nodes.ts';

/** `privIno`: the inode of the private object. */
export function turnPrivate(core: Core, node: Node, privIno: number, partial: Partial | null): void {
  node.priv = true;
  node.privIno = privIno;
  node.partial = partial;
  core.byPrivateIno.set(privIno, node);
  core.ledger?.changed(node);
}

/** As takeOver, for a metadata-only copy whose file below is open through passthrough, and which will be written. */
export function takeOverPrivate(core: Core, node: Node): void {
  const { privIno, partial } = node;
  const heir = takeOver(core, node);
  forgetInode(core, node);
  node.priv = false;
  turnPrivate(core, heir, privIno, partial ?? null);
}

/** A new node takes all names of one whose old content is open through passthrough. */
export function takeOver(core: Core, node: Node): Node {
  const heir = newNode(core, node.kind);
  heir.ino = node.ino;
  heir.unit = node.unit;
  heir.entry = node.entry;
  const names = [{ parent: node.parent!, name: node.name }, ...(node.moreNames?.values() ?? [])];
  node.successor = heir;
  node.lookups++; // Keeps it alive while its names go.
  for (const place of names) {
    detachName(core, place.parent, place.name);
    attachName(core, heir, place.parent, place.name);
  }
  node.lookups--;
  core.ledger?.changed(node);
  releaseIfUnused(core, node);
  return heir;
}
