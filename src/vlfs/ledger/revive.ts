/**
 * Gives an opened VLFS the nodes and handles that a killed process left in its ledger, so that the kernel's numbers go on meaning the same. No
 * system call for a node: what it shows is looked up at its next use, as after a relayer. Descriptors of open files come from `take`.
 */
import { close, fgetxattr, fstat, newStat, S_IFDIR, S_IFMT, S_IFREG } from '../../sys/index.ts';
import { openShared } from '../copy-up/shared-content.ts';
import { type Backing, type Core, emptyNode, type Handle, type Node, rememberShared } from '../core.ts';
import { newPartial, openBase } from '../delta/partial-file.ts';
import { decodePartial, PARTIAL_XATTR } from '../delta/partial-form.ts';
import { newBacking } from '../nodes/handles.ts';
import { nameKey } from '../nodes/nodes.ts';
import { countHandles } from '../nodes/shares.ts';
import { confirm } from '../operations/lookup.ts';
import type { Unit } from '../stack/stack.ts';
import { BACKING_BIT, MODE_PRIVATE } from './layout.ts';
import { type HandleRecord, type LedgerContent, MOST_HANDLES, type NodeRecord } from './read-ledger.ts';

export interface Revival {
  content: LedgerContent;
  /** A descriptor of the killed process in this one, or a negative errno. */
  take(fd: number): number;
}

/** Fills the core, which knows nothing but its root, and notes everything in its own ledger. */
export function revive(core: Core, { content, take }: Revival): void {
  core.nextId = Math.max(core.nextId, content.nextId);
  core.ledger?.issued(core.nextId);
  core.ledger?.journal.carry(content.unfinished);
  core.lastAttrs = content.gone;
  // Nobody noted which listings the kernel keeps: as with every directory below, it may be that of the root.
  core.listed.add(core.root.id);
  const units = new Map(core.stack.units.map((unit) => [unit.inoBase, unit]));
  for (const record of content.nodes.values()) if (record.id !== core.root.id) addNode(core, record, units);
  for (const record of content.nodes.values()) placeNode(core, record);
  for (const { node: id, parent: parentId, name } of content.names) {
    const node = core.nodes.get(id);
    const parent = core.nodes.get(parentId);
    if (node === undefined || parent?.children == null || name === '' || parent.children.has(name)) continue;
    parent.children.set(name, node);
    node.moreNames ??= new Map();
    node.moreNames.set(nameKey(parent, name), { parent, name });
  }
  for (const [id, attr] of content.gone) {
    const node = core.nodes.get(id);
    attr.ino = node?.ino ?? 0;
    if (node !== undefined && node.parent === null && node.successor === null) node.gone = attr;
  }
  reviveHandles(core, content, take);
  for (const node of core.nodes.values()) {
    if (node === core.root) continue;
    remember(core, node);
    core.ledger?.known(node);
    const last = content.gone.get(node.id);
    if (last !== undefined) core.ledger?.gone(node, last);
  }
}

function addNode(core: Core, record: NodeRecord, units: ReadonlyMap<number, Unit>): void {
  const node = emptyNode(core, record.id, record.mode & S_IFMT);
  node.ino = record.ino;
  node.lookups = record.lookups;
  node.priv = (record.mode & MODE_PRIVATE) !== 0;
  node.privIno = record.privIno;
  node.unit = units.get(record.inoBase) ?? null;
  // The entries of a frozen layer are other ones in each process: this one is found by its inode when it is used.
  if (node.unit !== null && node.unit.frozen !== null) node.entry = 0;
  else if (node.unit !== null && record.entry < node.unit.index.entryCount) node.entry = record.entry;
  else node.unit = null;
  // Looked at again when it is used.
  node.generation = -1;
  if (node.kind === S_IFDIR) {
    node.children = new Map();
    node.priv = false;
    core.listed.add(node.id);
  }
}

function placeNode(core: Core, record: NodeRecord): void {
  const node = core.nodes.get(record.id);
  if (node === undefined) return;
  node.successor = core.nodes.get(record.successor) ?? null;
  const parent = core.nodes.get(record.parent);
  if (parent?.children == null || record.name === '') return;
  node.parent = parent;
  node.name = record.name;
  parent.children.set(record.name, node);
}

/** The tables by inode hold what has a name, and files without one that are open. */
function remember(core: Core, node: Node): void {
  if (node.children !== null || (node.parent === null && node.opens === 0) || node.successor !== null) return;
  if (node.priv) core.byPrivateIno.set(node.privIno, node);
  else if (node.unit === null || node.parent === null || node.unit.frozen !== null) return;
  else if (node.unit.index.nlink(node.entry) > 1) rememberShared(core, node);
}

function reviveHandles(
  core: Core,
  { handles: records, handleNumbers }: LedgerContent,
  take: Revival['take'],
): void {
  const backings = new Map<string, Backing | null>();
  for (const record of records) {
    const node = core.nodes.get(record.node);
    if (node === undefined || !Number.isInteger(record.fh) || record.fh < 0 || record.fh >= MOST_HANDLES)
      continue;
    if (!node.priv && node.unit !== null && node.unit.frozen !== null) confirm(core, node);
    const present = (record.backing & BACKING_BIT.present) !== 0;
    const key = record.fd >= 0 ? `${record.fd}` : `node ${node.id} ${record.backing & BACKING_BIT.shared}`;
    let backing = backings.get(key) ?? null;
    if (present && backing === null) {
      backing = reviveBacking(core, node, record, take);
      backings.set(key, backing);
    }
    while (core.handles.length < record.fh) core.handles.push(null);
    const handle: Handle = { node, backing, flags: record.flags };
    core.handles[record.fh] = handle;
    node.opens++;
    countHandles(1);
    const access = record.flags & 3;
    if (access !== 0) node.writers++;
    if (access === 2) node.mappers++;
    if (backing !== null) {
      backing.opens++;
      if (backing.shared === !node.priv) node.backing = backing;
    }
    core.ledger?.opened(record.fh, handle);
    core.ledger?.openMode(record.fh, record.mode);
  }
  while (core.handles.length < handleNumbers) core.handles.push(null);
  core.ledger?.handleNumbers(core.handles.length);
}

/**
 * From now on the numbers of closed handles may be given out again. Not before the requests that the kernel sent again have been answered: the answer to
 * a close may have been lost, and the repeated close must not meet a new handle.
 */
export function reuseHandles(core: Core): void {
  core.freeHandles.length = 0;
  for (const [fh, handle] of core.handles.entries()) if (handle === null) core.freeHandles.push(fh);
}

const stat = newStat();

/** The descriptor itself, so what has no name any more is still there; what the kernel reads through us may be opened later. */
function reviveBacking(core: Core, node: Node, record: HandleRecord, take: (fd: number) => number): Backing {
  const bits = record.backing;
  const shared = (bits & BACKING_BIT.shared) !== 0;
  let fd = record.fd < 0 ? -1 : take(record.fd);
  if (fd >= 0 && !isSame(node, shared, fd)) {
    close(fd);
    fd = -1;
  }
  if (fd < 0 && shared && (bits & BACKING_BIT.cached) === 0 && node.unit !== null)
    fd = openShared(node.unit, node.entry);
  const cached = (bits & BACKING_BIT.cached) !== 0;
  const writable = (bits & BACKING_BIT.writable) !== 0;
  const backing = newBacking({ fd: Math.max(fd, -1), shared, cached, writable });
  backing.written = (bits & BACKING_BIT.written) !== 0;
  if (fd >= 0 && !shared && cached) revivePartial(core, node, backing);
  return backing;
}

/** A partial file that is open for writing: its map is in its attributes. */
function revivePartial(core: Core, node: Node, backing: Backing): void {
  const value = fgetxattr(backing.fd, PARTIAL_XATTR);
  const form = typeof value === 'number' ? null : decodePartial(value);
  node.partial = form === null ? null : newPartial(form);
  if (form === null) return;
  form.meta = false;
  backing.partial = node.partial;
  backing.baseFd = openBase(core, form);
}

function isSame(node: Node, shared: boolean, fd: number): boolean {
  if (fstat(fd, stat) < 0 || (stat.mode & S_IFMT) !== S_IFREG) return false;
  return shared || !node.priv || stat.ino === node.privIno;
}
