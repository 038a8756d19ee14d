/**
 * Checking a unit: its tree against its index, entry by entry (type, mode, owner, size, time, target, content, attributes, hard links),
 * and the index against its own checksum. Reads every byte of the unit; changes nothing.
 */
import { createHash } from 'node:crypto';
import { asStrataError, FormatError, nameToText, StrataError } from '../base/index.ts';
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../sys/index.ts';
import type { EntryNumber, LayerUnit, TreeIndex, VerifyProblem } from './contract.ts';
import { readPlainFile } from './plain-file.ts';
import { treeIndexFromBytes } from './tree-index.ts';
import type { TreeEntry } from './tree-index-build.ts';
import { FORMAT, H, HEADER_BYTES } from './tree-index-format.ts';
import { scanTree } from './tree-scan.ts';
import { openUnit, unitIndexFile, unitTreeDir } from './unit.ts';

/** All differences between the unit's tree and what was imported, sorted by path; [] when it is sound. `path` is the path in the tree,
 * or the file of the unit that is damaged. */
export async function verifyUnit(unit: LayerUnit): Promise<VerifyProblem[]> {
  try {
    openUnit(unit.dir);
  } catch (error) {
    return [{ path: 'metadata', problem: asStrataError(error).message }];
  }
  try {
    const index = checkedIndex(readPlainFile(unitIndexFile(unit), Number.MAX_SAFE_INTEGER));
    const entries = await scanTree(unitTreeDir(unit), { overlay: unit.metadata.category === 'config' });
    return compare(index, entries);
  } catch (error) {
    if (error instanceof FormatError) return [{ path: 'index', problem: error.message }];
    const failure = asStrataError(error);
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [{ path: 'index', problem: 'missing' }];
    if (failure instanceof StrataError && failure.data?.['errno'] === 2) {
      return [{ path: 'filesystem', problem: 'missing' }];
    }
    throw failure;
  }
}

/** The index over `bytes`, when its body has the checksum that its header says. Throws FormatError. */
export function checkedIndex(bytes: Buffer): TreeIndex {
  const index = treeIndexFromBytes(bytes);
  const sum = createHash('sha256').update(bytes.subarray(HEADER_BYTES)).digest();
  if (!sum.equals(bytes.subarray(H.bodySha256, H.bodySha256 + 32))) {
    throw new FormatError(FORMAT, HEADER_BYTES, 'its content does not have the checksum of its header', {
      hint: 'remove the layer unit and import it again',
    });
  }
  return index;
}

const TYPE_NAMES = new Map([
  [S_IFREG, 'a file'],
  [S_IFDIR, 'a directory'],
  [S_IFLNK, 'a symlink'],
  [S_IFCHR, 'a character device'],
  [S_IFBLK, 'a block device'],
]);

function compare(index: TreeIndex, entries: readonly TreeEntry[]): VerifyProblem[] {
  const problems: VerifyProblem[] = [];
  const seen = new Uint8Array(index.entryCount);
  const linkNames = new Map<string | number, number>();
  for (const { inode } of entries) {
    if (inode !== undefined) linkNames.set(inode, (linkNames.get(inode) ?? 0) + 1);
  }
  const leaderOf = new Map<string | number, EntryNumber>();
  for (const found of entries) {
    const path = found.path === '' ? '.' : nameToText(found.path);
    const entry = index.find(found.path);
    if (entry < 0) {
      problems.push({ path, problem: 'extra: it was not in the layer' });
      continue;
    }
    seen[entry] = 1;
    for (const problem of differences(index, entry, found)) problems.push({ path, problem });
    if ((found.mode & S_IFMT) === S_IFDIR || found.inode === undefined) {
      if (index.nlink(entry) > 1 && (index.mode(entry) & S_IFMT) !== S_IFDIR) {
        problems.push({ path, problem: 'no longer a hard link' });
      }
      continue;
    }
    const leader = leaderOf.get(found.inode);
    const names = linkNames.get(found.inode)!;
    if (leader === undefined) leaderOf.set(found.inode, index.hardLinkLeader(entry));
    if (names !== index.nlink(entry) || (leader !== undefined && leader !== index.hardLinkLeader(entry))) {
      problems.push({ path, problem: `hard link: ${names} names instead of ${index.nlink(entry)}` });
    }
  }
  for (let entry = 0; entry < index.entryCount; entry++) {
    if (seen[entry] === 0) problems.push({ path: nameToText(index.path(entry)), problem: 'missing' });
  }
  return problems.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
}

function* differences(index: TreeIndex, entry: EntryNumber, found: TreeEntry): Generator<string> {
  const mode = index.mode(entry);
  const type = mode & S_IFMT;
  const foundType = found.mode & S_IFMT;
  if (type !== foundType) {
    yield `${TYPE_NAMES.get(foundType) ?? 'a fifo'} instead of ${TYPE_NAMES.get(type) ?? 'a fifo'}`;
    return;
  }
  if (mode !== found.mode && type !== S_IFLNK) {
    yield `mode ${(found.mode & 0o7777).toString(8)} instead of ${(mode & 0o7777).toString(8)}`;
  }
  if (index.uid(entry) !== found.uid || index.gid(entry) !== found.gid) {
    yield `owner ${found.uid}:${found.gid} instead of ${index.uid(entry)}:${index.gid(entry)}`;
  }
  if (index.mtimeSec(entry) !== found.mtimeSec || index.mtimeNsec(entry) !== found.mtimeNsec) {
    yield 'modification time changed';
  }
  if (type === S_IFREG) {
    if (index.size(entry) !== found.size) yield `${found.size} bytes instead of ${index.size(entry)}`;
    else if (index.digest(entry) !== null && index.digest(entry) !== found.digest) yield 'content changed';
  }
  if (type === S_IFLNK && index.symlinkTarget(entry) !== found.linkTarget) {
    yield `leads to ${nameToText(found.linkTarget ?? '')} instead of ${nameToText(index.symlinkTarget(entry))}`;
  }
  if (index.rdev(entry) !== (found.rdev ?? 0)) yield 'another device number';
  const wanted = index.xattrs(entry);
  const names = new Set([...wanted.keys(), ...(found.xattrs?.keys() ?? [])]);
  for (const name of [...names].sort()) {
    const a = wanted.get(name);
    const b = found.xattrs?.get(name);
    if (a === undefined || b === undefined || Buffer.compare(a, b) !== 0) {
      yield `extended attribute ${nameToText(name)} ${b === undefined ? 'missing' : a === undefined ? 'extra' : 'changed'}`;
    }
  }
}
