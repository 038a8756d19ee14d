/** Making tree indexes: of a directory on disk or of entries at hand, into memory or into a file. */
import type { TreeIndex } from './contract.ts';
import { writeFileDurably } from './durable-file.ts';
import { treeIndexFromBytes } from './tree-index.ts';
import { buildTreeIndex, type TreeEntry } from './tree-index-build.ts';
import { type ScanOptions, scanTree, scanTreeSync } from './tree-scan.ts';

/** The index of a directory tree as it is now, in memory. `overlay`: the tree is in overlayfs-upper form (config and frozen layers). */
export async function indexTree(dir: string, options: ScanOptions = {}): Promise<TreeIndex> {
  return treeIndexFromBytes(buildTreeIndex(await scanTree(dir, options)));
}

/** As indexTree, without giving way to the event loop: for small trees. */
export function indexTreeSync(dir: string, options: ScanOptions = {}): TreeIndex {
  return treeIndexFromBytes(buildTreeIndex(scanTreeSync(dir, options)));
}

/** Writes the index of a directory tree, or of entries, to `file` (durably and at once: readers see the old one or the new one) and opens it. */
export async function writeTreeIndex(
  file: string,
  tree: string | Iterable<TreeEntry>,
  options: ScanOptions = {},
): Promise<TreeIndex> {
  const entries = typeof tree === 'string' ? await scanTree(tree, options) : tree;
  const bytes = buildTreeIndex(entries);
  writeFileDurably(file, bytes);
  return treeIndexFromBytes(bytes);
}
