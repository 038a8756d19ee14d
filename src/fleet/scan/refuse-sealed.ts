/** The sealed door has no process in its data path that could refuse an open, so an appliance that holds content in quarantine does not get it. */
import { existsSync } from 'node:fs';
import { StrataError } from '../../base/index.ts';
import { heldMark } from '../../scan/index.ts';
import type { VlfsSpec } from '../../vlfs/contract.ts';
import { closeStack, openStack, readQuarantine } from '../../vlfs/index.ts';
import type { FleetContext } from '../context.ts';
import { refuseOnOpen } from './on-open.ts';

/** Throws DENIED when a layer or the private layer of the appliance has content in quarantine, shown or not, or when its contents are judged at open. */
export function refuseQuarantined(context: FleetContext, { name, stack, privateDir }: VlfsSpec): void {
  refuseOnOpen(privateDir, name);
  const digests = new Set<string>(readQuarantine(context.root));
  if (digests.size === 0) return;
  const opened = openStack(stack);
  try {
    for (const [at, { id, index, treeDir }] of opened.units.entries()) {
      const { kind, indexFile } = stack.levels[at]!;
      if (kind === 'frozen' && !existsSync(indexFile)) {
        const path = heldMark(treeDir, digests);
        if (path !== null) throw denied(name, id, path);
        continue;
      }
      for (let entry = 0; entry < index.entryCount; entry++) {
        const digest = index.digest(entry);
        if (digest !== null && digests.has(digest)) throw denied(name, id, index.path(entry));
      }
    }
  } finally {
    closeStack(opened);
  }
  const path = heldMark(privateDir, digests);
  if (path !== null) throw denied(name, 'its private layer', path);
}

function denied(name: string, holder: string, path: string): StrataError {
  return new StrataError(
    'DENIED',
    `appliance ${name} cannot be shown by the sealed door: ${holder} has content in quarantine (/${path})`,
    { hint: 'use the door fuse, which hides it, or release it: strata scan --list' },
  );
}
