/**
 * What an image shows at a path of the layers: whiteouts count, but the targets of redirects stand in it as a redirect reaches them. The image is made
 * by this rule (merged-inodes.ts), and what the private layer must hide in it is found by it (hide-kept.ts).
 */
import { childDirectory, directoryAt } from '../stack/child-directories.ts';
import type { HiddenEntries, MergedDirectory } from '../stack/merged-directory.ts';
import type { Stack } from '../stack/stack.ts';

/** The directory that whiteouts leave at `path`, within the nearest target above it; null when that is none. */
export function shownAt(
  stack: Stack,
  hidden: HiddenEntries,
  targets: ReadonlySet<string>,
  path: string,
): MergedDirectory | null {
  const parts = path.split('/');
  let from = parts.length - 1;
  while (from > 0 && !targets.has(parts.slice(0, from).join('/'))) from--;
  let directory = directoryAt(stack, parts.slice(0, from).join('/'), hidden);
  for (const name of parts.slice(from)) {
    if (directory === null) return null;
    directory = childDirectory(directory, name, hidden);
  }
  return directory;
}

export function sameDirectory(a: MergedDirectory, b: MergedDirectory): boolean {
  return (
    a.contributors.length === b.contributors.length &&
    a.contributors.every((ref, i) => ref === b.contributors[i])
  );
}

/** Those paths with all above them. */
export function withAncestors(paths: Iterable<string>): Set<string> {
  const all = new Set<string>();
  for (const path of paths) {
    for (let at = path; at !== ''; at = at.slice(0, Math.max(0, at.lastIndexOf('/')))) all.add(at);
  }
  return all;
}
