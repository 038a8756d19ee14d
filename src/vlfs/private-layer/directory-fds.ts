/**
 * Descriptors of private directories, kept for the next use: one bounded cache per thread, for all VLFSs, which gives up what was not
 * used for long (second chance). Each is opened below its parent's descriptor with O_NOFOLLOW, so no name in a private tree leads out of
 * it. A descriptor that was got is valid until at least CAPACITY / 2 others were asked for.
 */
import { close, E, O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW, O_RDONLY, openat } from '../../sys/index.ts';
import type { Core, Node } from '../core.ts';

const CAPACITY = 2048;
/** In the order in which they are looked at when one must go. */
const cache = new Set<Node>();
/** Uses so far: `node.privFdUsed` says when its descriptor was asked for last. */
let uses = 0;

/** The descriptor of a directory node that the private layer has, or a negative errno. Do not close it. */
export function directoryFd(core: Core, node: Node): number {
  if (node === core.root) return core.rootFd;
  node.privFdUsed = ++uses;
  return node.privFd >= 0 ? node.privFd : openBelow(core, node);
}

/** Opens the directory, and before it those above it that are not open: a tree may be deeper than a stack of calls. */
function openBelow(core: Core, node: Node): number {
  const closed: Node[] = [];
  let above: Node = node;
  for (; above !== core.root && above.privFd < 0; above = above.parent) {
    if (above.parent === null) return -E.NOENT;
    closed.push(above);
  }
  let fd = above === core.root ? core.rootFd : above.privFd;
  for (let next = closed.pop(); next !== undefined; next = closed.pop()) {
    fd = openat(fd, next.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fd;
    next.privFdUsed = ++uses;
    if (cache.size >= CAPACITY) closeOne();
    next.privFd = fd;
    cache.add(next);
  }
  return fd;
}

/** The descriptor if it is open already, else -1. */
export function openDirectoryFd(core: Core, node: Node): number {
  return node === core.root ? core.rootFd : node.privFd;
}

/** Closes one that was not among the last CAPACITY / 2 uses: at most that many can be. */
function closeOne(): void {
  for (const node of cache) {
    if (uses - node.privFdUsed >= CAPACITY / 2) {
      dropDirectoryFd(node);
      return;
    }
    cache.delete(node);
    cache.add(node);
  }
}

/** Closes the descriptor of a directory that moved, went or is forgotten. */
export function dropDirectoryFd(node: Node): void {
  if (node.privFd < 0) return;
  cache.delete(node);
  close(node.privFd);
  node.privFd = -1;
}

/** Closes all of a VLFS: its private directories are others from now on. */
export function dropDirectoryFds(core: Core): void {
  for (const node of cache) if (core.nodes.get(node.id) === node) dropDirectoryFd(node);
}
