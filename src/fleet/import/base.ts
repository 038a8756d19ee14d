/**
 * Bases: imports/ID/{tree, index} is a root file system that was brought in from outside. An appliance whose file `base` names one shows it below everything
 * else, as one more layer: nothing in it is a change of the appliance. Clones show the same one; who needs it is known from those files alone.
 */
import { renameSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { StrataError } from '../../base/index.ts';
import type { LevelSpec, StackSpec } from '../../vlfs/contract.ts';
import type { FleetContext } from '../context.ts';
import { mountedDirs } from '../gc/references.ts';
import { type Garbage, type GcRun, takeAway } from '../gc/trash.ts';
import type { GcJob } from '../gc/worker.ts';
import { isThere, namesIn, readTextIfThere, removeTree, writeNewFile } from '../state/files.ts';
import { recordNames, recordText } from '../state/journal-records.ts';
import { COMMIT } from '../state/locks.ts';
import type { FleetPaths } from '../state/paths.ts';
import { stackOfLevels } from '../templates/compose.ts';

/** Twelve hexadecimal digits. */
export type BaseId = string;

const ID = /^[0-9a-f]{12}$/;
const TRASH = /^\.trash-/;

export function baseDir(paths: FleetPaths, id: BaseId): string {
  return join(paths.imports, id);
}

/** The base of an appliance, or null. Throws BAD_FORMAT: an appliance must not be shown without what lies below it. */
export function baseOf(paths: FleetPaths, name: string): BaseId | null {
  const text = readTextIfThere(join(paths.appliances, name, 'base'));
  if (text === null) return null;
  if (ID.test(text.trim())) return text.trim();
  throw new StrataError('BAD_FORMAT', `the file ${join(paths.appliances, name, 'base')} is damaged`);
}

/** Writes the base of an appliance that is being made. */
export function stageBase(dir: string, id: BaseId | null): void {
  for (const [file, text] of baseTexts(id)) writeNewFile(join(dir, file), text);
}

/** The same as files and what they hold. */
export function baseTexts(id: BaseId | null): [string, string][] {
  return id === null ? [] : [['base', `${id}\n`]];
}

/** The level of a base that stands in `dir`. */
export function baseLevelAt(dir: string, id: BaseId): LevelSpec {
  return {
    kind: 'software',
    id: `imported/${id} 1`,
    treeDir: join(dir, 'tree'),
    indexFile: join(dir, 'index'),
    whiteoutsDir: null,
  };
}

/** An appliance's stack with its base at the bottom. */
export function withBase(paths: FleetPaths, name: string, stack: StackSpec): StackSpec {
  const id = baseOf(paths, name);
  return id === null ? stack : stackOfLevels([...stack.levels, baseLevelAt(baseDir(paths, id), id)]);
}

/** Removes what was staged for an import that failed, unless the journal has decided on it: then the next opening completes it. */
export function discardStage(context: FleetContext, stage: string): void {
  const journal = join(context.root, 'journal');
  const isDecided = recordNames(journal).some((record) =>
    recordText(join(journal, record))?.includes(basename(stage)),
  );
  if (!isDecided) removeTree(stage);
}

/** Bases that no appliance has and no mount shows; none when that cannot be told. Under the commit lock. */
function unusedBases(context: FleetContext): BaseId[] {
  const { paths, catalog } = context;
  const there = namesIn(paths.imports).filter((name) => ID.test(name));
  if (there.length === 0) return [];
  const known = new Set(catalog.all().map(({ name }) => name));
  const used = new Set<string>();
  for (const name of namesIn(paths.appliances)) {
    if (name.startsWith('.')) continue;
    if (!known.has(name)) return [];
    try {
      used.add(baseOf(paths, name) ?? '');
    } catch {
      return [];
    }
  }
  const shown = mountedDirs(context.root);
  return there.filter((id) => !used.has(id) && !shown.has(baseDir(paths, id)));
}

/** Takes unused bases away and begins to delete them. Under the commit lock. */
export function dropUnusedBases(context: FleetContext): void {
  const { imports } = context.paths;
  for (const id of unusedBases(context)) renameSync(join(imports, id), join(imports, `.trash-${id}`));
  const left = namesIn(imports).filter((name) => TRASH.test(name));
  if (left.length === 0) return;
  const job: GcJob = { paths: left.map((name) => join(imports, name)), remove: true };
  const worker = new Worker(new URL('../gc/worker.ts', import.meta.url), {
    workerData: job,
    execArgv: ['--disable-warning=ExperimentalWarning'],
  });
  worker.on('error', () => {});
  worker.unref();
}

/** At the opening: what killed imports and deletions left. */
export async function dropLeftBases(context: FleetContext): Promise<void> {
  const { imports } = context.paths;
  if (!isThere(imports)) return;
  for (const name of namesIn(imports)) if (name.startsWith('.tmp-')) removeTree(join(imports, name));
  await context.locks.with([COMMIT], () => dropUnusedBases(context));
}

/** As a part of gc. */
export async function collectBases(run: GcRun): Promise<void> {
  const { context } = run;
  const { imports } = context.paths;
  const unused = await context.locks.with([COMMIT], () => unusedBases(context));
  if (unused.length === 0) return;
  const garbage = unused.map(
    (id): Garbage => ({ kind: 'imports', name: `imports/${id}`, path: join(imports, id), trashDir: imports }),
  );
  const isFree = () => {
    const now = new Set(unusedBases(context));
    return ({ path }: Garbage) => now.has(path.slice(imports.length + 1));
  };
  await takeAway(run, garbage, isFree);
}
