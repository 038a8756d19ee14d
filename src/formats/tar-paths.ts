/**
 * What names a tar archive may hold: relative, without '..', within Linux's limits; nothing below a symlink or a file of the same
 * archive; no path twice but directories; hard links only to what came before. So no archive can reach outside the directory it is unpacked to.
 */
import { FormatError, LIMITS, type Name, nameToText, StrataError } from '../base/index.ts';
import type { ArchiveEntry } from './contract.ts';

export interface PathRules {
  format: string;
  /** Entries of the archive; more is LIMIT. */
  maxEntries: number;
  /** Whether entries below this symlink of the same archive are allowed (the usrmerge links). Default: none. */
  isAllowedSymlinkParent?: ((path: Name, target: Name) => boolean) | undefined;
}

/**
 * A normalised path: './' and doubled or trailing slashes off; '' is the root. Throws FormatError for absolute names, '..', NUL and
 * names over the limits. `what` is for the error, e.g. 'name' or 'hard link target'.
 */
export function normalisePath(raw: string, format: string, offset: number, what: string): Name {
  const refuse = (why: string): never => {
    throw new FormatError(
      format,
      offset,
      `the ${what} ${JSON.stringify(nameToText(raw.slice(0, 300)))} ${why}`,
      {
        hint: 'the archive is refused because unpacking it could reach outside its directory',
      },
    );
  };
  if (raw === '') refuse('is empty');
  if (raw.charCodeAt(0) === 47) refuse('is absolute');
  if (raw.includes('\0')) refuse('holds a NUL byte');
  const components: string[] = [];
  for (const component of raw.split('/')) {
    if (component === '' || component === '.') continue;
    if (component === '..') refuse("has a '..' component");
    if (component.length > LIMITS.nameBytes) refuse(`has a component over ${LIMITS.nameBytes} bytes`);
    components.push(component);
  }
  const path = components.join('/');
  if (path.length > LIMITS.pathBytes) refuse(`is longer than ${LIMITS.pathBytes} bytes`);
  return path as Name;
}

type Seen = 'directory' | 'symlink' | 'allowed-symlink' | 'other';

/** Checks one entry after the other against all before it. Returns the checker; it throws FormatError. */
export function pathChecker(rules: PathRules): (entry: ArchiveEntry, offset: number) => void {
  const seen = new Map<string, Seen>();
  let entries = 0;

  /** All components above `path` must be directories, or symlinks that the rules allow. */
  function checkParents(path: string, offset: number): void {
    const slash = path.lastIndexOf('/');
    if (slash === -1) return;
    const parent = path.slice(0, slash);
    const kind = seen.get(parent);
    if (kind === 'directory' || kind === 'allowed-symlink') return;
    if (kind !== undefined) {
      throw new FormatError(
        rules.format,
        offset,
        `the entry ${JSON.stringify(nameToText(path))} lies below ${JSON.stringify(nameToText(parent))}, which is a ${kind === 'symlink' ? 'symlink' : 'file'} of the same archive`,
      );
    }
    checkParents(parent, offset);
    seen.set(parent, 'directory');
  }

  return (entry, offset) => {
    if (++entries > rules.maxEntries)
      throw new StrataError('LIMIT', `${rules.format}: more than ${rules.maxEntries} entries`);
    const { path, type } = entry;
    if (path === '') {
      if (type !== 'directory') throw new FormatError(rules.format, offset, 'a root that is no directory');
      return;
    }
    checkParents(path, offset);
    const before = seen.get(path);
    if (before !== undefined && !(before === 'directory' && type === 'directory'))
      throw new FormatError(
        rules.format,
        offset,
        `the entry ${JSON.stringify(nameToText(path))} stands twice`,
      );
    if (type === 'directory') {
      seen.set(path, 'directory');
      return;
    }
    if (type === 'hardlink') {
      const target = seen.get(entry.linkTarget!);
      if (target === undefined || target === 'directory') {
        throw new FormatError(
          rules.format,
          offset,
          `the hard link ${JSON.stringify(nameToText(path))} leads to ${JSON.stringify(nameToText(entry.linkTarget!))}, which is no earlier file of the archive`,
        );
      }
      seen.set(path, target);
      return;
    }
    if (type === 'symlink') {
      const allowed = rules.isAllowedSymlinkParent?.(path, entry.linkTarget!) ?? false;
      seen.set(path, allowed ? 'allowed-symlink' : 'symlink');
      return;
    }
    seen.set(path, 'other');
  };
}
