/** What a merge removes from the parent: but not what the child's policy hides from the child. */
import { nameToText, StrataError } from '../../base/index.ts';
import { S_IFDIR } from '../../sys/index.ts';
import { directoryByPath } from '../copy-up/copy-up-links.ts';
import type { Core, Node } from '../core.ts';
import { nodeAt } from '../operations/lookup.ts';
import { rmdir, unlink } from '../operations/remove-ops.ts';
import { runHere } from '../policy/run-here.ts';
import { namesShown } from '../policy/shown.ts';
import { type Applying, must } from './applying.ts';
import { withNode } from './plan.ts';

/** Removes what stands at a path, with all below that the child sees. */
export function removeAt(applying: Applying, path: string): void {
  const parts = path.split('/');
  const name = parts.pop()!;
  const parent = directoryByPath(applying.core, parts);
  if (parent === null) return;
  const node = nodeAt(applying.core, parent, name);
  if (typeof node !== 'number') removeTree(applying, path, parent, name, node);
}

/** What stands in the way of the child's object. */
export function removeOne(applying: Applying, path: string, parent: Node, name: string, node: Node): void {
  if (removeTree(applying, path, parent, name, node)) return;
  throw new StrataError(
    'CONFLICT',
    `${nameToText(path as never)} holds what the child's policy hides from it`,
    {
      hint: "take the parent's version: --ours-path",
    },
  );
}

/** Removes an object with all below, but not what the child's policy hides from it, nor then the directories above that; true when all is gone. */
function removeTree(applying: Applying, path: string, parent: Node, name: string, node: Node): boolean {
  const { core } = applying;
  if (!isSeen(applying, path)) return false;
  if (node.kind !== S_IFDIR) {
    must(
      runHere((caller) => unlink(core, caller, parent, name)),
      path,
    );
    return true;
  }
  let isEmpty = true;
  node.lookups++;
  for (const child of namesShown(core, node)) {
    const below = nodeAt(core, node, child);
    if (typeof below === 'number') continue;
    if (!removeTree(applying, `${path}/${child}`, node, child, below)) isEmpty = false;
  }
  node.lookups--;
  if (isEmpty)
    must(
      runHere((caller) => rmdir(core, caller, parent, name)),
      path,
    );
  return isEmpty;
}

/** Whether the child could see what is at a path of the parent; what the parent has added since is seen by who asks for its removal. */
function isSeen({ sides, moved }: Applying, path: string): boolean {
  if (sides.child.stack.policy === null) return true;
  let before = path;
  for (const { from, to } of [...moved].reverse())
    if (before === to || before.startsWith(`${to}/`)) before = `${from}${before.slice(to.length)}`;
  const isThere = (core: Core): boolean => withNode(core, before, (node) => node !== null);
  return !isThere(sides.parentBase) || isThere(sides.childBase);
}
