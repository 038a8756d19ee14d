/**
 * A redirect leads to a directory of the layers whatever whiteouts hide the directories on its way, so that the part outlives the deletion of the
 * place it came from. What had been deleted before the redirect was made would come back by that: it is hidden name by name.
 */
import type { Core } from '../core.ts';
import { directoryAt } from '../stack/child-directories.ts';
import { entryOf, levelOf, type MergedDirectory, reference, unitOf } from '../stack/merged-directory.ts';
import { hide } from './whiteouts.ts';

/** `shown`: the directory as it is seen before a redirect leads to it. 0 or a negative errno; nothing that one can see changes. */
export function hideBeyond(core: Core, shown: MergedDirectory): number {
  const reached = directoryAt(core.stack, shown.path, core.hidden)?.contributors ?? [];
  for (const ref of reached) {
    if (shown.contributors.includes(ref)) continue;
    const { index } = unitOf(core.stack, ref);
    const first = index.firstChild(entryOf(ref));
    for (let child = first; child < first + index.childCount(entryOf(ref)); child++) {
      const hidden = hide(core, [reference(levelOf(ref), child)]);
      if (hidden < 0) return hidden;
    }
  }
  return 0;
}
