/**
 * `strata import-dir`: an existing root file system becomes an appliance. Its tree is made (by sharing blocks, by further names, by moving, else by copying) beside its
 * place, indexed, and appears with the appliance by one journal record: killed anywhere, both are there or neither, and a directory that is moved is where it was or in its
 * new place. What is read is not trusted: no link is followed, no other file system entered.
 */
import { mkdirSync, readFileSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { checkObjectName, type Progress, StrataError } from '../../base/index.ts';
import { isTreeXattr, scanTree, type TreeEntry, writeTreeIndex } from '../../layer/index.ts';
import * as sys from '../../sys/index.ts';
import { createAppliances, refuseExisting } from '../appliances/appliances.ts';
import { type FleetContext, operationId } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { copyTreeFrom } from '../merge-layers/tree-copy.ts';
import { latin1, must, openDirectory } from '../merge-layers/untrusted-tree.ts';
import { makeDirectory, removeTree, syncFileSystemAside } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { inState } from '../state/paths.ts';
import { createTemplate } from '../templates/templates.ts';
import { discardStage } from './base.ts';
import { withImage } from './from-image.ts';
import { unpackTar } from './from-tar.ts';
import { type Source, sourceAt } from './source.ts';

type Options = Parameters<Fleet['importDir']>[0];
type Imported = Awaited<ReturnType<Fleet['importDir']>>;

/** The template of appliances that have all in their base: it has no layers, and may get some. */
export const IMPORTED = 'imported';

export async function importDirectory(
  context: FleetContext,
  options: Options,
  progress: Progress,
): Promise<Imported> {
  const started = performance.now();
  const name = checkObjectName('appliance', options.name);
  refuseExisting(context, [name], null);
  const source = sourceAt(options.source);
  const how = options.how ?? 'copy';
  if (how !== 'copy' && source.kind !== 'directory') {
    throw new StrataError('USAGE', `only a directory can be ${how === 'move' ? 'moved' : 'linked'}`);
  }
  if (how === 'move') {
    source.path = realpathSync(source.path);
    refuseMove(context, source.path);
  }
  const template = options.template ?? (await importedTemplate(context, progress));
  const id = operationId();
  makeDirectory(context.paths.imports, 0o700);
  const stage = join(context.paths.imports, `.tmp-${id}`);
  mkdirSync(stage, { mode: 0o700 });
  try {
    if (how === 'move') tryMove(source.path, stage);
    const made = await makeTree(context, { source, how, stage }, progress);
    progress({ phase: 'index', message: `${made.entries.length} entries` });
    await writeTreeIndex(join(stage, 'index'), made.entries);
    await syncFileSystemAside(stage);
    if (how === 'move') {
      // Reading took a while.
      refuseMove(context, source.path);
      tryMove(source.path, stage);
    }
    context.onStep('import: staged');
    const to = join('imports', id);
    const steps: JournalStep[] = [{ do: 'rename', from: inState(context.paths, stage), to }];
    if (how === 'move') steps.push({ do: 'take', from: source.path, to: join(to, 'tree') });
    const { mac, quotaBytes, quotaInodes } = options;
    const created = await createAppliances(
      context,
      {
        name,
        template,
        ...(mac === undefined ? {} : { mac }),
        ...(quotaBytes === undefined ? {} : { quotaBytes }),
        ...(quotaInodes === undefined ? {} : { quotaInodes }),
      },
      progress,
      { base: id, steps },
    );
    return {
      ...created.appliances[0]!,
      source: source.kind,
      entries: made.entries.length,
      bytes: made.entries.reduce((sum, { size }) => sum + size, 0),
      left_out: made.leftOut,
      elapsed_ms: Math.round(performance.now() - started),
    };
  } catch (error) {
    discardStage(context, stage);
    throw error;
  }
}

/** Makes the template of imports, when there is none yet. */
export async function importedTemplate(context: FleetContext, progress: Progress): Promise<string> {
  if (!context.templates.has(IMPORTED)) {
    const options = { name: IMPORTED, layers: [], from: [], configure: false };
    try {
      await createTemplate(context, options, progress, { mayBeEmpty: true });
    } catch (error) {
      if (!context.templates.has(IMPORTED)) throw error;
    }
  }
  return IMPORTED;
}

/** A move must not take what is in use by a mount, nor what it would move into itself. `path` has no links in it. */
function refuseMove(context: FleetContext, path: string): void {
  const root = realpathSync(context.root);
  const inside = root === path || root.startsWith(`${path}/`);
  const own = path.startsWith(`${root}/`);
  if (inside || own || path === '/')
    throw new StrataError('USAGE', `${path} cannot be moved into ${context.root}`);
  const mounts = readFileSync('/proc/self/mountinfo', 'latin1').split('\n');
  const at = latin1(path);
  const mount = mounts
    .map((line) => unescaped(line.split(' ')[4] ?? ''))
    .find((dir) => dir === at || dir.startsWith(`${at}/`));
  if (mount !== undefined) {
    throw new StrataError('BUSY', `${mount} is a mount, so ${path} cannot be moved`, {
      hint: `unmount it, or leave out --move`,
    });
  }
  const stat = sys.newStat();
  must(sys.statAt(sys.AT_FDCWD, at, stat), `stat ${path}`);
  const { dev } = stat;
  must(sys.statAt(sys.AT_FDCWD, latin1(context.root), stat), `stat ${context.root}`);
  if (dev === stat.dev) return;
  throw new StrataError('UNSUPPORTED', `${path} is not on the file system of ${context.root}`, {
    hint: 'leave out --move: then it is copied',
  });
}

/** Blanks and backslashes of mountinfo. */
function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

/**
 * Throws when the kernel would not rename the directory into the stage (between two mounts of one file system, an immutable directory):
 * in the journal it would be too late. Tried with a target that is not empty, which no directory replaces.
 */
function tryMove(path: string, stage: string): void {
  const target = join(stage, 'try');
  mkdirSync(join(target, 'full'), { recursive: true });
  const said = sys.renameat2(sys.AT_FDCWD, latin1(path), sys.AT_FDCWD, latin1(target));
  removeTree(target);
  if (said === -sys.E.NOTEMPTY || said === -sys.E.EXIST) return;
  throw new StrataError(said === -sys.E.BUSY ? 'BUSY' : 'UNSUPPORTED', `${path} cannot be moved`, {
    hint: `${sys.errnoName(-said)}; leave out --move: then it is copied`,
  });
}

interface Made {
  entries: TreeEntry[];
  /** Directories of other file systems, and Strata's own state, which are empty in the appliance. */
  leftOut: string[];
}

async function makeTree(
  context: FleetContext,
  o: { source: Source; how: NonNullable<Options['how']>; stage: string },
  progress: Progress,
): Promise<Made> {
  const { source, how, stage } = o;
  const tree = join(stage, 'tree');
  if (source.kind === 'tar') {
    mkdirSync(tree, { mode: 0o755 });
    return { entries: await unpackTar(source.path, tree, progress), leftOut: [] };
  }
  if (how === 'move') {
    progress({ phase: 'index', message: 'reading every file' });
    return { entries: checkEntries(await scanTree(source.path), source.path), leftOut: [] };
  }
  const copy = (fd: number): Promise<string[]> =>
    copyFrom(fd, tree, { how: how === 'link' ? 'link' : 'copy', without: [context.root, stage] }, progress);
  const leftOut =
    source.kind === 'image'
      ? await withImage(source.path, source.type, copy)
      : await copyDirectory(source.path, copy);
  progress({ phase: 'index', message: 'reading every file' });
  return { entries: checkEntries(await scanTree(tree), source.path), leftOut };
}

async function copyDirectory(path: string, copy: (fd: number) => Promise<string[]>): Promise<string[]> {
  const fd = openDirectory(sys.AT_FDCWD, latin1(path));
  try {
    return await copy(fd);
  } finally {
    sys.close(fd);
  }
}

/** Entries between two reports. */
const REPORT = 4096;

/** `without`: directories that are left empty. */
async function copyFrom(
  fd: number,
  tree: string,
  { how, without }: { how: 'copy' | 'link'; without: string[] },
  progress: Progress,
): Promise<string[]> {
  const stat = sys.newStat();
  must(sys.fstat(fd, stat), 'stat');
  const { dev } = stat;
  const except = new Set<number>();
  for (const dir of without) {
    must(sys.statAt(sys.AT_FDCWD, latin1(dir), stat), `stat ${dir}`);
    if (stat.dev === dev) except.add(stat.ino);
  }
  const leftOut: string[] = [];
  await copyTreeFrom(fd, tree, {
    how,
    device: dev,
    except,
    skipXattr: (attribute) => !isTreeXattr(attribute, false),
    onLeftOut: (path) => leftOut.push(Buffer.from(path, 'latin1').toString()),
    onEntry: (entries, bytes) => {
      if (entries % REPORT === 0)
        progress({ phase: 'import', message: `${entries} entries`, doneBytes: bytes });
    },
  });
  return leftOut;
}

/** A 0:0 device would be a whiteout in a private layer. */
function checkEntries(entries: TreeEntry[], label: string): TreeEntry[] {
  const whiteout = entries.find(({ mode, rdev }) => (mode & sys.S_IFMT) === sys.S_IFCHR && (rdev ?? 0) === 0);
  if (whiteout === undefined) return entries;
  throw new StrataError(
    'BAD_FORMAT',
    `/${whiteout.path} in ${label} is a whiteout, which a root file system cannot hold`,
    {
      hint: 'an upper directory of overlayfs is no root file system: import what its mount shows',
    },
  );
}
