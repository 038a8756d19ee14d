/**
 * Content in quarantine: every open of a file that shows it answers EPERM, in all VLFSs of the thread, by whatever layer or copy. A shared file's
 * content is named by its index; a private file carries a mark, which means something only while its digest is in quarantine. Names, attributes,
 * renames and removals stay as they are. Costs nothing while nothing is in quarantine.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Digest } from '../../base/index.ts';
import { close, E, fgetxattr, fremovexattr, getxattrAt } from '../../sys/index.ts';
import { openShared } from '../copy-up/shared-content.ts';
import type { Core, Node } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import type { Unit } from '../stack/stack.ts';

/** On private and frozen files: the SHA-256 of the content, 64 hexadecimal digits. */
export const QUARANTINE_XATTR = 'trusted.strata.quarantine';

let digests: ReadonlySet<string> = new Set();

/** What no VLFS of this thread shows from now on. */
export function setQuarantine(list: readonly string[]): void {
  digests = new Set(list);
}

/** Whether anything is in quarantine. */
export function hasQuarantine(): boolean {
  return digests.size > 0;
}

export function quarantineDir(root: string): string {
  return join(root, 'scan', 'quarantine');
}

/** ROOT/scan/quarantine holds one file for each content, named by its digest. */
export function readQuarantine(root: string): Digest[] {
  try {
    return readdirSync(quarantineDir(root)).filter((name): name is Digest => /^[0-9a-f]{64}$/.test(name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** The digest of a shared file that is in quarantine, to be noted on its private copy; else null. */
export function quarantinedEntry(unit: Unit, entry: number): string | null {
  if (digests.size === 0) return null;
  const digest = unit.index.digest(entry) ?? markOf(unit, entry);
  return digest !== null && digests.has(digest) ? digest : null;
}

/** The mark of a file whose level has no digests. */
function markOf(unit: Unit, entry: number): string | null {
  const fd = openShared(unit, entry);
  if (fd < 0) return null;
  const mark = fgetxattr(fd, QUARANTINE_XATTR);
  close(fd);
  return textOf(mark);
}

function textOf(mark: Uint8Array | number): string | null {
  return typeof mark === 'number' ? null : Buffer.from(mark).toString('latin1');
}

/** 0, or -EPERM: the content of this regular file is in quarantine. */
export function refusedContent(core: Core, node: Node): number {
  if (digests.size === 0) return 0;
  if (!node.priv) return node.unit !== null && quarantinedEntry(node.unit, node.entry) !== null ? -E.PERM : 0;
  const mark = textOf(privateMark(core, node));
  return mark !== null && digests.has(mark) ? -E.PERM : 0;
}

function privateMark(core: Core, node: Node): Uint8Array | number {
  if (node.backing !== null && !node.backing.shared) return fgetxattr(node.backing.fd, QUARANTINE_XATTR);
  if (node.parent === null) return -E.NODATA;
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : getxattrAt(fd, node.name, QUARANTINE_XATTR);
}

/** The content of a private file went: it was cut to nothing. */
export function contentWent(fd: number): void {
  if (digests.size > 0) fremovexattr(fd, QUARANTINE_XATTR);
}
