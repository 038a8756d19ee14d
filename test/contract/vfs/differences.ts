/**
 * Where the FUSE door differs from a plain directory, and why. The suite expects each of these to fail, so that an entry goes when its cause
 * does. Behaviours are named `topic: behaviour`.
 */

/** Everywhere behind the FUSE door. */
const ANYWHERE: Record<string, string> = {
  'sparse-files: collapsing and inserting ranges':
    'Linux refuses FALLOC_FL_COLLAPSE_RANGE and FALLOC_FL_INSERT_RANGE for FUSE before it asks the server (fuse_file_fallocate)',
  'xattrs: user attributes follow the file mode; a symlink has none; trusted ones are for root only':
    'names (not values) of trusted attributes are listed to everybody: with idmapped mounts Linux does not tell the server who asks',
};

/** For files of shared and config layers. */
const SHARED: Record<string, string> = {
  'unnamed-files: a file without a name is opened again for writing, and gets attributes of all kinds':
    'a shared file without a name cannot be copied up any more',
};

const TWO_INODES =
  'a large file that is open through passthrough when it is copied up becomes a second inode of the kernel, because one inode has one backing file';

/** Besides, in the cache mode shared; each of these is what the mode exact is for. */
const NOT_EXACT: Record<string, string> = {
  'locks: flock: a reader and a writer of the file see each other': `${TWO_INODES}; locks are kept by inode`,
  'locks: fcntl: a lock of a reader stays in the way of writers': `${TWO_INODES}; locks are kept by inode`,
  'readers: a descriptor sees what is written, the new size, truncation': TWO_INODES,
  'readers: mappings see what is written': TWO_INODES,
  'readers: buffered and direct readers see buffered and direct writes': TWO_INODES,
  'readers: a growing file is followed': TWO_INODES,
  'readers: a reader sees the file emptied and written anew': TWO_INODES,
};

/** The reason why a behaviour differs in a place, or null when it must not. */
export function knownDifference(place: string, topic: string, behaviour: string): string | null {
  const name = `${topic}: ${behaviour}`;
  if (place === 'a plain directory') return null;
  const anywhere = ANYWHERE[name] ?? null;
  if (anywhere !== null || place === 'the private layer') return anywhere;
  return SHARED[name] ?? (place.endsWith('cached exactly') ? null : (NOT_EXACT[name] ?? null));
}
