/**
 * The thread of fsck-private.ts: walks private layers and whiteout sets, which may hold millions of files, while the control plane goes on. What a
 * running appliance changes meanwhile is no finding: each is looked at again before it is told. Reads only.
 */
import { join } from 'node:path';
import { parentPort, workerData } from 'node:worker_threads';
import { nameFromText, nameToText } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { basesOf, PARTIAL_XATTR, partialSource, walkEntries } from '../../vlfs/index.ts';

export interface PrivateJob {
  /** Appliances' directories. */
  dirs: string[];
}

export interface PrivateAnswer {
  dir: string;
  problems: { path: string; problem: string }[];
  /** There are more than those named. */
  more: boolean;
}

const NAMED = 20;
const DIRECTORY = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;
const OVERLAY = 'trusted.overlay.';
const STRATA = 'trusted.strata.';
/** What Strata and (through a sealed mount) the kernel write; an appliance cannot set any attribute with these prefixes. */
const KNOWN = new Set([
  ...[
    'opaque',
    'redirect',
    'origin',
    'impure',
    'nlink',
    'upper',
    'uuid',
    'metacopy',
    'protattr',
    'whiteouts',
    'whiteout',
  ].map((name) => OVERLAY + name),
  ...[
    'ino',
    'origin',
    'redirects',
    'links',
    'quarantine',
    'opened',
    'partial',
    'bases',
    'nonclonable',
    'was',
  ].map((name) => STRATA + name),
]);

interface Walk {
  answer: PrivateAnswer;
  isSet: boolean;
  /** The units below partial files. */
  bases: ReadonlyMap<string, string>;
}

function problemAt(dirfd: number, name: string, isSet: boolean): string | null {
  const stat = sys.newStat();
  if (sys.statAt(dirfd, name, stat) < 0) return null;
  const type = stat.mode & sys.S_IFMT;
  if (isSet && type !== sys.S_IFDIR && !(type === sys.S_IFCHR && stat.rdev === 0))
    return 'it is neither a whiteout nor a directory';
  if (type === sys.S_IFCHR && stat.rdev === 0) return null;
  const list = sys.listxattrAt(dirfd, name);
  if (typeof list === 'number') return null;
  for (const attribute of sys.splitXattrList(list)) {
    const isOurs = attribute.startsWith(OVERLAY) || attribute.startsWith(STRATA);
    if (isOurs && !KNOWN.has(attribute))
      return `it has an attribute that is not known: ${nameToText(attribute)}`;
    if (attribute !== `${OVERLAY}opaque`) continue;
    const value = sys.getxattrAt(dirfd, name, attribute);
    if (typeof value === 'number') continue;
    if (type !== sys.S_IFDIR || !/^[yx]$/.test(Buffer.from(value).toString('latin1')))
      return 'its mark trusted.overlay.opaque has no meaning';
  }
  return null;
}

/** A partial file without the file that it shows. */
function partialProblem(dirfd: number, name: string, { bases, isSet }: Walk): string | null {
  if (isSet || bases.size === 0 || typeof sys.getxattrAt(dirfd, name, PARTIAL_XATTR) === 'number')
    return null;
  const fd = sys.openat(dirfd, name, sys.O_RDONLY | sys.O_NOFOLLOW | sys.O_NONBLOCK | sys.O_CLOEXEC);
  if (fd < 0) return null;
  try {
    const source = partialSource(fd, bases);
    if (source !== null) sys.close(source.baseFd);
    return null;
  } catch (error) {
    return (error as Error).message;
  } finally {
    sys.close(fd);
  }
}

function look(walk: Walk, dirfd: number, name: string, path: string): void {
  const found = () => problemAt(dirfd, name, walk.isSet) ?? partialProblem(dirfd, name, walk);
  const problem = found();
  if (problem === null || found() !== problem) return;
  const { problems } = walk.answer;
  if (problems.length < NAMED) problems.push({ path: nameToText(path), problem });
  else walk.answer.more = true;
}

/** The tree `top` in the directory. What a running appliance moves at that moment is left out. */
function lookAt(walk: Walk, dirfd: number, top: string): void {
  const fd = sys.openat(dirfd, top, DIRECTORY);
  if (fd < 0) return;
  look(walk, dirfd, top, top);
  for (const { dirfd: at, name, type, path } of walkEntries(fd, { lenient: true })) {
    if (type === sys.DT_REG && !walk.isSet && !hasXattrs(at, name)) continue;
    if (walk.isSet && path === '.whole') continue;
    look(walk, at, name, `${top}/${path}`);
  }
  sys.close(fd);
}

function hasXattrs(dirfd: number, name: string): boolean {
  const list = sys.listxattrAt(dirfd, name);
  return typeof list !== 'number' && list.length > 0;
}

for (const dir of (workerData as PrivateJob).dirs) {
  const answer: PrivateAnswer = { dir, problems: [], more: false };
  const fd = sys.openat(sys.AT_FDCWD, nameFromText(dir), DIRECTORY);
  if (fd >= 0) {
    const bases = basesOf(join(dir, 'private'));
    lookAt({ answer, isSet: false, bases }, fd, 'private');
    lookAt({ answer, isSet: true, bases }, fd, 'whiteouts');
    sys.close(fd);
  }
  parentPort!.postMessage(answer);
}
