/**
 * Where the FUSE door differs from a plain directory, and why. The suite expects each of these to fail, so that an entry goes when its cause
 * does. Behaviours are named `topic: behaviour`.
 */

/** Everywhere behind the FUSE door. */
const ANYWHERE: Record<string, string> = {
  'sparse-files: collapsing and inserting ranges':
    'Linux refuses FALLOC_FL_COLLAPSE_RANGE and FALLOC_FL_INSERT_RANGE for FUSE before it asks the server (fuse_file_fallocate)',
  'permissions: bits set while a writer has the file open end with its next write':
    'passthrough writes have the privileges of the server',
  'xattrs: user attributes follow the file mode; a symlink has none; trusted ones are for root only':
    'names of trusted attributes are listed to everybody',
  'mappings: a shared write changes the modification time once it was synced':
    'the kernel is told to trust attributes of files that are open for writing',
};

/** For files of shared and config layers. */
const SHARED: Record<string, string> = {
  'locks: flock: a reader and a writer of the file see each other':
    'a file that is open through passthrough when it is copied up becomes a second inode of the kernel, because one inode has one backing file; ' +
    'locks are kept by inode',
  'locks: fcntl: a lock of a reader stays in the way of writers': 'as above',
  'unnamed-files: attributes of an unlinked file change, also when it was opened for reading only':
    'a shared file without a name is not copied up',
  'unnamed-files: an unlinked file is opened again through /proc, for reading and for writing': 'as above',
};

/** The reason why a behaviour differs in a place, or null when it must not. */
export function knownDifference(place: string, topic: string, behaviour: string): string | null {
  const name = `${topic}: ${behaviour}`;
  if (place === 'a plain directory') return null;
  return ANYWHERE[name] ?? (place === 'the private layer' ? null : (SHARED[name] ?? null));
}
