/** The target of a symlink. */
import type { Name } from '../../base/index.ts';
import { E, readlinkat } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { confirm } from './lookup.ts';

export function readlink(core: Core, node: Node): Name | number {
  if (!node.priv) return node.unit!.index.symlinkTarget(node.entry);
  const confirmed = confirm(core, node);
  if (confirmed < 0) return confirmed;
  if (node.parent === null) return -E.STALE;
  const fd = directoryFd(core, node.parent);
  return fd < 0 ? fd : (readlinkat(fd, node.name) as Name | number);
}
