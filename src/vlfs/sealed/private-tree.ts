/** Walks over the directories of a private layer, with the nodes that say what of the stack they show. */
import { close, DT_DIR, fgetxattr, fsetxattr, readDirectory } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { systemFailure } from '../failure.ts';
import { nodeAt } from '../operations/lookup.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { REDIRECT, REDIRECTS_XATTR } from '../stack/merged-directory.ts';
import { openDirectory } from '../whiteouts/whiteout-sets.ts';

/** Throws when `result` is a negative errno. */
export function must(result: number, what: string): number {
  if (result < 0) throw systemFailure(result, what);
  return result;
}

/** The names in a private directory. */
export function privateNames(core: Core, node: Node): { name: string; type: number }[] {
  const fd = must(
    openDirectory(must(directoryFd(core, node), 'open a private directory'), '.'),
    'open a private directory',
  );
  const entries = readDirectory(fd);
  close(fd);
  if (typeof entries === 'number') throw systemFailure(entries, 'read a private directory');
  return entries;
}

/** Calls `visit` for every directory of the private layer, parents first. */
export function eachPrivateDirectory(core: Core, visit: (node: Node) => void): void {
  const pending: Node[] = [core.root];
  for (let from = pending.pop(); from !== undefined; from = pending.pop()) {
    visit(from);
    for (const { name, type } of privateNames(core, from).reverse()) {
      if (type !== DT_DIR && type !== 0) continue;
      const node = nodeAt(core, from, name);
      if (typeof node !== 'number' && node.children !== null && node.priv) pending.push(node);
    }
  }
}

/** Whether a private directory has a redirect, whatever it leads to. */
export function hasRedirect(core: Core, node: Node): boolean {
  return typeof fgetxattr(must(directoryFd(core, node), 'open a private directory'), REDIRECT) !== 'number';
}

/** Paths in the layers of the directories that redirects of the private layer lead to. */
export function redirectTargets(core: Core): string[] {
  const targets: string[] = [];
  eachPrivateDirectory(core, (node) => {
    if (node.redirect !== null && node.merged !== null) targets.push(node.merged.path);
  });
  return targets;
}

/** Remembers on private/ that there are redirects, as the other door does before it makes the first one. */
export function noteRedirects(core: Core): void {
  if (core.hasRedirects) return;
  must(fsetxattr(core.rootFd, REDIRECTS_XATTR, Buffer.from('y')), 'mark the private layer');
  core.hasRedirects = true;
  core.moved = null;
}
