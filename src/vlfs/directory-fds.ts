/**
 * Descriptors of private directories, kept for the next use: one bounded least-recently-used cache per thread, for all VLFSs. Each is
 * opened below its parent's descriptor with O_NOFOLLOW, so no name in a private tree leads out of it. A descriptor that was got is
 * valid until at least CAPACITY / 2 others were asked for.
 */
import { close, E, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat } from '../sys/index.ts';
import type { Core, Node } from './core.ts';

const CAPACITY = 2048;
const cache = new Map<Node, number>();

/** The descriptor of a directory node that the private layer has, or a negative errno. Do not close it. */
export function directoryFd(core: Core, node: Node): number {
  if (node === core.root) return core.rootFd;
  const known = cache.get(node);
  if (known !== undefined) {
    cache.delete(node);
    cache.set(node, known);
    return known;
  }
  if (node.parent === null) return -E.NOENT;
  const parentFd = directoryFd(core, node.parent);
  if (parentFd < 0) return parentFd;
  const fd = openat(parentFd, node.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return fd;
  cache.set(node, fd);
  if (cache.size > CAPACITY) {
    const oldest = cache.entries().next().value!;
    cache.delete(oldest[0]);
    close(oldest[1]);
  }
  return fd;
}

/** Closes the descriptor of a directory that moved, went or is forgotten. */
export function dropDirectoryFd(node: Node): void {
  const fd = cache.get(node);
  if (fd === undefined) return;
  cache.delete(node);
  close(fd);
}
