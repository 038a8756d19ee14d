/** Extended attributes as they are on disk, with those that no program may see. */
import { fgetxattr, getxattrAt } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';
import { directoryFd } from '../private-layer/directory-fds.ts';
import { entryOf, topOf, unitOf } from '../stack/merged-directory.ts';

/** An attribute of an object, in the private layer or, when that does not have it, where it comes from; null: it has none such. */
export function rawXattr(core: Core, node: Node, attribute: string): Uint8Array | null {
  if (node.priv) {
    const isDirectory = node.children !== null;
    const fd = isDirectory
      ? directoryFd(core, node)
      : node.parent === null
        ? -1
        : directoryFd(core, node.parent);
    if (fd < 0) return null;
    const value = isDirectory ? fgetxattr(fd, attribute) : getxattrAt(fd, node.name, attribute);
    return typeof value === 'number' ? null : value;
  }
  const ref = node.children !== null && node.merged !== null ? topOf(node.merged) : -1;
  const unit = ref >= 0 ? unitOf(core.stack, ref) : node.unit;
  const entry = ref >= 0 ? entryOf(ref) : node.entry;
  if (!unit?.index.hasXattrs(entry)) return null;
  const attributes: ReadonlyMap<string, Uint8Array> = unit.index.xattrs(entry);
  return attributes.get(attribute) ?? null;
}
