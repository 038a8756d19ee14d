/**
 * Where the doors differ from a plain directory, and why. The suite expects each of these to fail, so that an entry goes when its cause
 * does. Behaviours are named `topic: behaviour`.
 */
import type { Place } from './places.ts';

/** Everywhere behind the FUSE door. */
const FUSE: Record<string, string> = {
  'sparse-files: collapsing and inserting ranges':
    'Linux refuses FALLOC_FL_COLLAPSE_RANGE and FALLOC_FL_INSERT_RANGE for FUSE before it asks the server (fuse_file_fallocate)',
  'xattrs: user attributes follow the file mode; a symlink has none; trusted ones are for root only':
    'names (not values) of trusted attributes are listed to everybody: with idmapped mounts Linux does not tell the server who asks',
};

const TWO_INODES =
  'a large file that is open through passthrough when it is copied up becomes a second inode of the kernel, because one inode has one backing file';

/** Besides, in the cache mode shared, for files of shared and config layers; each of these is what the mode exact is for. */
const NOT_EXACT: Record<string, string> = {
  'unnamed-files: a file without a name is opened again for writing, and gets attributes of all kinds':
    'a shared file without a name cannot be copied up any more when its content may be open through passthrough',
  'locks: flock: a reader and a writer of the file see each other': `${TWO_INODES}; locks are kept by inode`,
  'locks: fcntl: a lock of a reader stays in the way of writers': `${TWO_INODES}; locks are kept by inode`,
  'readers: a descriptor sees what is written, the new size, truncation': TWO_INODES,
  'readers: mappings see what is written': TWO_INODES,
  'readers: buffered and direct readers see buffered and direct writes': TWO_INODES,
  'readers: a growing file is followed': TWO_INODES,
  'readers: a reader sees the file emptied and written anew': TWO_INODES,
};

/** Everywhere behind the sealed door, which is the kernel's overlayfs over EROFS. */
const SEALED: Record<string, string> = {};

const ACL =
  'overlayfs changes the access control list of a lower file only if the file system below could (ovl_set_acl), and EROFS cannot';
const LINKS =
  'copy-up of one name of a hard-linked file leaves the others behind (overlayfs without an index)';
const MAPPED = 'a mapping that was made before a copy-up goes on showing the lower file (overlayfs)';
const UNNAMED =
  'overlayfs tells the link count that the lower file has, and cannot copy up a file without a name';

/** There, for files of shared and config layers. */
const SEALED_SHARED: Record<string, string> = {
  'acls: a list is set, shows in the mode, and survives a write': ACL,
  'acls: without its default list a directory follows the umask again': ACL,
  'acls: only the owner sets a list': ACL,
  'hard-links: a write by one name shows under all, looked up before or not': LINKS,
  'hard-links: a large file': LINKS,
  'hard-links: mode, owner and times are common': LINKS,
  'hard-links: a deleted name counts no more; the others go on': LINKS,
  'hard-links: a name replaced by a rename counts no more': LINKS,
  'hard-links: new links before and after a write': LINKS,
  'hard-links: who holds the file open through one name sees writes through another': LINKS,
  'hard-links: names in a directory that is renamed': LINKS,
  'hard-links: a hundred links': LINKS,
  'directories: positions stay valid while the directory changes: what stays comes once':
    'a position in a merged directory of overlayfs is a place in a list, which is made anew when the directory changed',
  'readers: mappings see what is written': MAPPED,
  'readers: mappings see what is written (small)': MAPPED,
  'renames: two names of one file: nothing happens': LINKS,
  'renames: EXCHANGE of two files': LINKS,
  'renames: a file replaces a file at once, and who had that open keeps it': `${LINKS}; ${UNNAMED}`,
  'unnamed-files: a file opened for reading only is read after it was unlinked, and after its name was taken':
    UNNAMED,
  'unnamed-files: attributes of an unlinked file change, also when it was opened for reading only': UNNAMED,
  'unnamed-files: a file without a name is opened again for writing, and gets attributes of all kinds':
    UNNAMED,
  'unnamed-files: a file replaced by a rename is read on': UNNAMED,
  'xattrs: a buffer that is too small, and a question for the size':
    'the size that overlayfs tells for a list counts its own attributes, which the list then leaves out',
  'sparse-files: a change keeps the holes, and they cost no blocks':
    'overlayfs guesses st_blocks from the size until the data of a file is looked up (ovl_getattr)',
};

/** The reason why a behaviour differs in a place, or null when it must not. */
export function knownDifference(place: Place, topic: string, behaviour: string): string | null {
  if (place.door === null) return null;
  const anywhere = place.door === 'sealed' ? SEALED : FUSE;
  const name = `${topic}: ${behaviour}`;
  if (anywhere[name] !== undefined || place.layer === null) return anywhere[name] ?? null;
  const shared = { fuse: NOT_EXACT, exact: {}, sealed: SEALED_SHARED }[place.door];
  return (shared as Record<string, string>)[name] ?? null;
}
