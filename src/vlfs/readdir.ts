/**
 * Reading directories. A handle takes a snapshot of the names at its first read (and again at a rewind), so that cookies stay valid while the
 * directory changes; with attributes (READDIRPLUS) each name is looked up when it is sent, and left out when it went meanwhile.
 */

import type { Name } from '../base/index.ts';
import { close, DT_DIR, E, getxattrAt, readDirectory, S_IFMT } from '../sys/index.ts';
import { fillEntry, newAttr } from './attributes.ts';
import type { DirectorySink, EntryOut, OpenOut } from './contract.ts';
import type { Core, Handle, Node, Snapshot } from './core.ts';
import { directoryFd } from './directory-fds.ts';
import { addHandle, handleOf } from './handles.ts';
import { privateIno } from './inode-numbers.ts';
import { decodeIno, INO_XATTR, nodeAt, refresh } from './lookup.ts';
import { childDirectory, entryOf, mergedIno, namesOf, unitOf, visibleOf } from './merged-directory.ts';
import { isWhiteoutEntry } from './remove-ops.ts';
import { openDirectory } from './whiteout-sets.ts';

export function opendir(core: Core, node: Node, out: OpenOut): number {
  if (node.children === null) return -E.NOTDIR;
  out.fh = addHandle(core, node, null, 0);
  out.backingFd = -1;
  out.backingReadOnly = true;
  out.directIo = false;
  out.keepCache = true;
  out.keepsBacking = false;
  return 0;
}

const entry: EntryOut = { nodeId: 0, generation: 0, attr: newAttr(), entryValidMs: 0, attrValidMs: 0 };

/** Sends entries from `cookie` on until the sink is full. */
export function readdir(core: Core, fh: number, cookie: number, sink: DirectorySink): number {
  const handle = handleOf(core, fh);
  if (handle === null || handle.node.children === null) return -E.BADF;
  if (handle.snapshot === null || cookie === 0) {
    const taken = takeSnapshot(core, handle.node);
    if (typeof taken === 'number') return taken;
    handle.snapshot = taken;
    handle.node.listed = true;
  }
  const { names, types, inos } = handle.snapshot;
  for (let i = cookie; i < names.length; i++) {
    const name = names[i]! as Name;
    if (!sink.plus) {
      if (!sink.add(name, inos[i]!, types[i]!, i + 1)) return 0;
      continue;
    }
    if (!sink.hasRoomFor(name)) return 0;
    if (!fillPlus(core, handle, i)) continue;
    sink.addPlus(name, i + 1, types[i]!, entry);
  }
  return 0;
}

/** The entry of name `i` with attributes; false when the name is gone. '.' and '..' are not counted as lookups. */
function fillPlus(core: Core, handle: Handle, i: number): boolean {
  const { names, types, inos } = handle.snapshot!;
  if (i < 2) {
    entry.nodeId = 0;
    entry.entryValidMs = entry.attrValidMs = 0;
    Object.assign(entry.attr, newAttr(), { ino: inos[i]!, mode: types[i]! << 12 });
    return true;
  }
  const node = nodeAt(core, handle.node, names[i]!);
  return typeof node !== 'number' && fillEntry(core, node, entry) === 0;
}

function takeSnapshot(core: Core, node: Node): Snapshot | number {
  const snapshot: Snapshot = {
    names: ['.', '..'],
    types: [DT_DIR, DT_DIR],
    inos: [node.ino, (node.parent ?? node).ino],
  };
  if (refresh(core, node) < 0) return snapshot; // Removed: it has only itself.
  const seen = new Set<string>();
  if (node.priv) {
    const result = addPrivate(core, node, snapshot, seen);
    if (result < 0) return result;
  }
  if (node.merged === null) return snapshot;
  for (const [name, candidates] of namesOf(node.merged)) {
    const ref = visibleOf(candidates, core.hidden);
    if (ref < 0 || seen.has(name)) continue;
    const unit = unitOf(core.stack, ref);
    const type = (unit.index.mode(entryOf(ref)) & S_IFMT) >>> 12;
    snapshot.names.push(name);
    snapshot.types.push(type);
    snapshot.inos.push(
      type === DT_DIR
        ? mergedIno(childDirectory(node.merged, name, core.hidden) ?? node.merged)
        : unit.inoBase + unit.index.hardLinkLeader(entryOf(ref)),
    );
  }
  return snapshot;
}

function addPrivate(core: Core, node: Node, snapshot: Snapshot, seen: Set<string>): number {
  const base = directoryFd(core, node);
  const fd = base < 0 ? base : openDirectory(base, '.');
  if (fd < 0) return fd;
  const entries = readDirectory(fd);
  if (typeof entries !== 'number') {
    const shared = node.merged === null ? null : namesOf(node.merged);
    for (const { name, type, ino } of entries) {
      seen.add(name);
      if (isWhiteoutEntry(fd, name, type)) continue;
      snapshot.names.push(name);
      snapshot.types.push(type);
      snapshot.inos.push(shownIno(node, fd, name, ino, shared?.has(name) === true));
    }
  }
  close(fd);
  return typeof entries === 'number' ? entries : 0;
}

/** d_ino of a private entry: what st_ino will be. Only entries that may be copies are asked for their number. */
function shownIno(node: Node, fd: number, name: string, ino: number, mayBeCopy: boolean): number {
  const known = node.children!.get(name);
  if (known?.priv && known.privIno === ino) return known.ino;
  const kept = mayBeCopy ? decodeIno(getxattrAt(fd, name, INO_XATTR)) : 0;
  return kept > 0 ? kept : privateIno(ino);
}
