/**
 * After a takeover: what the killed process had made of the create, mknod, mkdir or symlink that it was executing. The kernel holds the directory's
 * lock from the request to its answer, so nobody has seen it.
 */
import {
  AT_REMOVEDIR,
  newStat,
  S_IFCHR,
  S_IFDIR,
  S_IFMT,
  S_IFREG,
  statAt,
  unlinkat,
} from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { STEP } from '../ledger/layout.ts';
import { detachName } from '../nodes/nodes.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { nodeAt, refresh } from './lookup.ts';

const stat = newStat();

/**
 * The node, when it came to its name whole (from the work directory). What was made in place may lack its owner and mode: it is taken away, and
 * null says that the request begins anew.
 */
export function madeBefore(core: Core, parent: Node, name: string): Node | null {
  const step = core.ledger?.journal.resumed?.step ?? STEP.none;
  if (step !== STEP.made && step !== STEP.settled) return null;
  if (refresh(core, parent) < 0 || !parent.priv) return null;
  const fd = directoryFd(core, parent);
  if (fd < 0 || statAt(fd, name, stat) < 0) return null;
  const kind = stat.mode & S_IFMT;
  if (kind === S_IFCHR && stat.rdev === 0) return null;
  if (step === STEP.settled) {
    const node = nodeAt(core, parent, name);
    return typeof node === 'number' ? null : node;
  }
  // Nothing that was there before is new, empty and unknown to the kernel.
  const known = parent.children!.get(name);
  if (kind === S_IFREG && (stat.size > 0 || stat.nlink > 1)) return null;
  if (unlinkat(fd, name, kind === S_IFDIR ? AT_REMOVEDIR : 0) < 0) return null;
  if (known !== undefined) {
    known.lookups = 0;
    known.demanded?.close();
    detachName(core, parent, name);
  }
  return null;
}
