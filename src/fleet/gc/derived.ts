/**
 * Smaller things that outlive their use: whiteout sets of units that left a stack, images of sealed doors, bundles and records of containers
 * that ended, journal records of finished commands.
 */
import { lstatSync, readlinkSync, statSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { listContainers } from '../../runtime/index.ts';
import { privateUsage } from '../../vlfs/index.ts';
import { applianceLock } from '../appliances/appliances.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { cleanupConfigure } from '../configure/index.ts';
import { inUse, WORK_PREFIX } from '../configure/leftovers.ts';
import type { FleetContext } from '../context.ts';
import { runRecords } from '../mounts/run-records.ts';
import { endStaleRuns } from '../mounts/runs.ts';
import { policyRecord } from '../policy/record.ts';
import { sealedMounts } from '../sealed/door.ts';
import { hasSealedRecord } from '../sealed/records.ts';
import { isThere, namesIn, readTextIfThere } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { readRecord, recordNames } from '../state/journal-records.ts';
import { applianceDefinition } from '../templates/follow.ts';
import { unitDirKey } from './generations.ts';
import { mountRecords } from './references.ts';
import { breather, type Garbage, type GcRun, hold, moveAside, takeAway } from './trash.ts';

/** An image that no mount shows is kept this long after its last use. */
const IMAGE_AGE_MS = 24 * 60 * 60 * 1000;
/** A bundle this young may belong to a container that is just starting. */
const STARTING_MS = 60_000;

/** Sets `REPO/LAYER_VERSION` and `config/OWNER` in a whiteouts/ directory. */
function setsIn(whiteoutsDir: string): string[] {
  return namesIn(whiteoutsDir).flatMap((repo) =>
    namesIn(join(whiteoutsDir, repo)).map((set) => `${repo}/${set}`),
  );
}

function staleSets(context: FleetContext, name: string): string[] {
  const row = context.catalog.get(name);
  if (row === null || hasSealedRecord(context, name)) return [];
  const sets = setsIn(applianceDirs(context.paths, name).whiteoutsDir);
  if (sets.length === 0) return [];
  try {
    const { record } = applianceDefinition(context, row);
    const wanted = new Set([
      ...record.units.map(unitDirKey),
      ...record.configs.map(({ owner }) => `config/${owner}`),
      ...(policyRecord(context.paths, name)?.layers ?? []).map(({ id }) => `policy/${id}`),
      ...row.frozen.map((id) => `frozen/${id}`),
    ]);
    return sets.filter((set) => !wanted.has(set));
  } catch {
    return [];
  }
}

/** Whiteout sets of appliances that nobody has mounted; in the others the next relayer drops them. */
export async function collectWhiteouts(run: GcRun): Promise<void> {
  const { context } = run;
  const breathe = breather();
  const status = await (await context.runningDataPlane())?.status();
  // Also what was unmounted with force: strata-fs may go on serving it.
  const served = new Set([...(status?.mounts.map(({ id }) => id) ?? []), ...(status?.lingering ?? [])]);
  for (const { name } of context.catalog.all()) {
    await breathe();
    if (served.has(name)) continue;
    if (staleSets(context, name).length === 0) continue;
    await hold(run, [applianceLock(name)], () => {
      const isMounted =
        mountRecords(context.root).some(({ id }) => id === name) ||
        sealedMounts(context.paths).some((mount) => mount.name === name);
      if (isMounted) return;
      const { whiteoutsDir } = applianceDirs(context.paths, name);
      for (const set of staleSets(context, name)) {
        const garbage: Garbage = {
          kind: 'whiteouts',
          name: `appliance ${name}: ${set}`,
          path: join(whiteoutsDir, set),
          trashDir: context.paths.appliances,
        };
        if (moveAside(run, garbage)) run.found.push(garbage);
      }
      if (!run.dryRun) context.catalog.put([]);
    });
  }
}

/** Images of sealed doors: all are derived data, and a mounted one may be deleted, too. */
export async function collectImages(run: GcRun): Promise<void> {
  const { context } = run;
  const dir = join(context.root, 'sealed');
  let oldestUseMs = Date.now() - IMAGE_AGE_MS;
  for (const { name } of context.catalog.all()) {
    const file = join(context.paths.appliances, name, 'sealed.json');
    const record = statSync(file, { throwIfNoEntry: false });
    if (record !== undefined) oldestUseMs = Math.min(oldestUseMs, record.mtimeMs - STARTING_MS);
  }
  const images: Garbage[] = [];
  for (const name of namesIn(dir)) {
    const stat = lstatSync(join(dir, name), { throwIfNoEntry: false });
    if (stat === undefined || !stat.isFile() || stat.mtimeMs > oldestUseMs) continue;
    if (!name.endsWith('.erofs') && !name.startsWith('.tmp-')) continue;
    images.push({ kind: 'images', name, path: join(dir, name), trashDir: null });
  }
  await takeAway(run, images, () => () => true);
}

/** What each name of a directory takes, by its path. */
function usageOf(paths: string[]): Map<string, number> {
  return new Map(paths.map((path) => [path, privateUsage(path).bytes]));
}

async function runtimePaths(root: string): Promise<string[]> {
  const dirs = ['run/containers', 'run/runs', 'run'].map((dir) => join(root, dir));
  const lists = await Promise.all(dirs.map((dir) => readdir(dir).catch(() => [])));
  return lists.flatMap((names, i) =>
    names
      .filter((name) => !name.startsWith('.') && (i < 2 || name.startsWith(WORK_PREFIX)))
      .map((name) => join(dirs[i]!, name)),
  );
}

/** Bundles, records and work directories of containers that have ended. Returns their bytes, since they go at once. */
export async function collectContainers(run: GcRun): Promise<Map<Garbage, number>> {
  const { context, dryRun } = run;
  const before = await runtimePaths(context.root);
  const found = new Map<Garbage, number>();
  if (before.length === 0) return found;
  const usage = usageOf(before);
  let gone: string[];
  if (dryRun) gone = await deadContainers(context, before);
  else {
    await endStaleRuns(context);
    if (before.some((path) => path.includes('configure-'))) await cleanupConfigure(context.root);
    gone = before.filter((path) => !isThere(path));
  }
  for (const path of gone) {
    const name = path.slice(context.root.length + 1);
    found.set({ kind: 'containers', name, path, trashDir: null }, usage.get(path) ?? 0);
  }
  return found;
}

async function deadContainers(context: FleetContext, paths: string[]): Promise<string[]> {
  const living = new Set((await listContainers(context.root)).map(({ id }) => id));
  const records = new Map(runRecords(context).map((record) => [`${record.runId}.json`, record]));
  return paths.filter((path) => {
    const name = path.slice(path.lastIndexOf('/') + 1);
    if (name.startsWith(WORK_PREFIX)) return !inUse.has(name);
    const stat = statSync(path, { throwIfNoEntry: false });
    if (living.has(name) || inUse.has(name) || stat === undefined) return false;
    const record = records.get(name);
    if (record !== undefined && living.has(record.runId)) return false;
    return Date.now() - stat.ctimeMs > STARTING_MS;
  });
}

/** Whether a step of a journal record has been done. */
function isDone(root: string, step: JournalStep): boolean {
  switch (step.do) {
    case 'rename':
    case 'replace':
      return !isThere(join(root, step.from));
    case 'link':
      try {
        return readlinkSync(join(root, step.path)) === step.target;
      } catch {
        return false;
      }
    case 'write':
      return readTextIfThere(join(root, step.path)) === step.text;
    case 'take':
      return isThere(join(root, step.to));
    default:
      return !isThere(join(root, step.path));
  }
}

/** Records whose command is complete but whose removal failed. One that is not complete is for the next opening. */
export async function collectJournal(run: GcRun): Promise<void> {
  const { root } = run.context;
  const dir = join(root, 'journal');
  const garbage = (name: string): Garbage => ({
    kind: 'journal',
    name: `journal/${name}`,
    path: join(dir, name),
    trashDir: dir,
  });
  const isComplete = ({ path }: Garbage): boolean => {
    try {
      const record = readRecord(path);
      return record?.format === 1 && record.steps.every((step) => isDone(root, step));
    } catch {
      return false;
    }
  };
  await takeAway(run, recordNames(dir).map(garbage), () => isComplete);
}
