/**
 * What else a reset keeps of directories that were renamed: which of the layers' names were deleted in them, and that their old places stay free. Works on the
 * private layer and the whiteouts that the reset has built and not yet put in place.
 */
import { fgetxattr, mknodat, S_IFCHR } from '../../sys/index.ts';
import type { VlfsSpec } from '../contract.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import { systemFailure } from '../failure.ts';
import { placesOfLayerDirectory } from '../nodes/moved-directories.ts';
import { closeCore, openCore } from '../open-core.ts';
import { privateDirectory } from '../private-layer/private-layer.ts';
import { originalOf } from '../stack/child-directories.ts';
import { REDIRECT } from '../stack/merged-directory.ts';

/** The directory of the layers that an open private directory shows wherever it is, or null. */
export function redirectOf(fd: number): string | null {
  const value = fgetxattr(fd, REDIRECT);
  if (typeof value === 'number') return null;
  const target = Buffer.from(value).toString('latin1');
  return target.startsWith('/') ? target.slice(1) : null;
}

/**
 * Hides the places of renamed directories at which the fresh private layer would show them too. `own`: where the private layer's redirects lead, as paths in the
 * stack; `frozen`: where those of frozen layers lead, as paths in what is below them. Throws a StrataError.
 */
export function hideOldPlaces(fresh: VlfsSpec, own: ReadonlySet<string>, frozen: ReadonlySet<string>): void {
  if (own.size + frozen.size === 0) return;
  const core = openCore(fresh);
  try {
    for (const target of new Set([...own, ...frozen])) {
      for (const parts of placesOfLayerDirectory(core, target)) {
        const node = directoryByPath(core, parts);
        if (node === null || node.redirect !== null || node.merged?.path !== target) continue;
        // A frozen layer may show another directory there, renamed to it or made there: only the one that was there before is the old place.
        const isOther = node.merged.originalPath !== target || originalOf(node.merged) === null;
        if (!own.has(target) && isOther) continue;
        const parentFd = privateDirectory(core, node.parent!);
        // A private directory there is one that was kept: it stays, and shows what is its own.
        const made = parentFd < 0 || node.priv ? parentFd : mknodat(parentFd, node.name, S_IFCHR, 0);
        if (made < 0) throw systemFailure(made, `hide the old place of /${target}`);
        core.generation++;
      }
    }
  } finally {
    closeCore(core);
  }
}
