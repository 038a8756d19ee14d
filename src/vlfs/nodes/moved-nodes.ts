/**
 * What a rename does to nodes, and how a process that takes over tells whether the rename that a killed one was executing was made: by the
 * inodes at both names, noted before.
 */
import { E, newStat, S_IFCHR, S_IFMT, statAt, unlinkat } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { STEP } from '../ledger/layout.ts';
import { refresh } from '../operations/lookup.ts';
import { loseName } from '../operations/remove-ops.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { attachName, detachName, releaseIfUnused } from './nodes.ts';

export interface End {
  parent: Node;
  name: string;
}

const fromStat = newStat();
const toStat = newStat();

/** The node goes from one name to the other, which is free. */
export function moveNode(core: Core, source: Node, from: End, to: End): void {
  const move = (): void => {
    source.lookups++;
    // The new name first: a node without a name loses its parked backing file.
    attachName(core, source, to.parent, to.name);
    detachName(core, from.parent, from.name);
    source.lookups--;
  };
  if (core.ledger === null) move();
  else core.ledger.together(move);
  releaseIfUnused(core, from.parent);
}

/** Two nodes change places. */
export function exchangeNodes(core: Core, source: Node, target: Node, from: End, to: End): void {
  const exchange = (): void => {
    source.lookups++;
    target.lookups++;
    detachName(core, from.parent, from.name);
    detachName(core, to.parent, to.name);
    attachName(core, source, to.parent, to.name);
    attachName(core, target, from.parent, from.name);
    source.lookups--;
    target.lookups--;
  };
  if (core.ledger === null) exchange();
  else core.ledger.together(exchange);
}

/** Before the move. `leftover`: a private whiteout will be left at the old name, to be removed. */
export function noteMove(
  core: Core,
  source: Node,
  replaced: Node | null,
  fromFd: number,
  name: string,
  leftover: boolean,
): void {
  if (core.ledger === null) return;
  if (source.children !== null && statAt(fromFd, name, fromStat) < 0) return;
  const ino = source.children === null ? source.privIno : fromStat.ino;
  core.ledger.journal.note(source.id, replaced?.id ?? 0, ino, leftover ? 1 : 0);
}

/** Before the exchange. */
export function noteExchange(
  core: Core,
  source: Node,
  target: Node,
  o: { fromFd: number; toFd: number; from: End; to: End },
): void {
  if (core.ledger === null) return;
  if (statAt(o.fromFd, o.from.name, fromStat) < 0 || statAt(o.toFd, o.to.name, toStat) < 0) return;
  core.ledger.journal.note(source.id, target.id, fromStat.ino, toStat.ino);
}

/** Whether a killed process made this very rename; then what it did not finish is finished. */
export function renamedBefore(core: Core, from: End, to: End): boolean {
  const resumed = core.ledger?.journal.resumed ?? null;
  if (resumed === null || (resumed.step !== STEP.rename && resumed.step !== STEP.exchange)) return false;
  if (refresh(core, from.parent) < 0 || refresh(core, to.parent) < 0) return false;
  if (!from.parent.priv || !to.parent.priv) return false;
  const fromFd = directoryFd(core, from.parent);
  const toFd = directoryFd(core, to.parent);
  if (fromFd < 0 || toFd < 0) return false;
  const [sourceId, targetId, sourceIno, other] = resumed.notes as [number, number, number, number];
  const source = core.nodes.get(sourceId);
  const target = core.nodes.get(targetId);
  const left = statAt(fromFd, from.name, fromStat);
  if (statAt(toFd, to.name, toStat) < 0 || toStat.ino !== sourceIno) return false;
  if (resumed.step === STEP.exchange) {
    if (left < 0 || fromStat.ino !== other) return false;
    if (source && target && from.parent.children!.get(from.name) === source)
      exchangeNodes(core, source, target, from, to);
    return true;
  }
  if (left === 0 && fromStat.ino === sourceIno) return false;
  if (left !== 0 && left !== -E.NOENT) return false;
  if (left === 0 && other === 1 && (fromStat.mode & S_IFMT) === S_IFCHR && fromStat.rdev === 0)
    unlinkat(fromFd, from.name);
  core.moved = null;
  if (target !== undefined && to.parent.children!.get(to.name) === target)
    loseName(core, target, to.parent, to.name, core.lastAttrs?.get(target.id) ?? null);
  if (source !== undefined && from.parent.children!.get(from.name) === source)
    moveNode(core, source, from, to);
  return true;
}
