/**
 * What dead processes left: temporaries, trash and downloads. A leftover is dead when its owner's flock is gone, when the process in its name has
 * ended (or began after it was made), or, for stratad's own staging, when no command runs. Work of the living stays, also of other hosts.
 */
import { closeSync, readFileSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { nameFromText } from '../../base/index.ts';
import * as sys from '../../sys/index.ts';
import { policyLayersInUse } from '../policy/record.ts';
import { namesIn } from '../state/files.ts';
import { othersRun } from './pins.ts';
import { breather, type Garbage, type GcRun, takeAway } from './trash.ts';

const STAGING = /^\.(?:tmp|trash)-/;
const LOCK_EX_NB = 2 | 4;
/** Clocks of processes and files may differ by this much. */
const SLACK_MS = 2000;
/** Temporary files of one write; nobody needs longer for it. */
const FILE_AGE_MS = 60 * 60 * 1000;

/** When the process began, in milliseconds since the epoch; null when there is none. */
function beganMs(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const ticks = Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]);
    const boot = /^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'latin1'));
    return Number(boot![1]) * 1000 + ticks * 10;
  } catch {
    return null;
  }
}

/** Whether the process in a name like `.tmp-PID-HEX` cannot have made what has it. */
export function isOwnerDead(pid: number, path: string): boolean {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) return false;
  const began = beganMs(pid);
  if (began === null) return true;
  const madeMs = stat.birthtimeMs > 0 ? Math.max(stat.birthtimeMs, stat.mtimeMs) : stat.ctimeMs;
  return madeMs + SLACK_MS < began;
}

function leftover(path: string, name: string): Garbage {
  return { kind: 'leftovers', name, path, trashDir: null };
}

/** Staging and trash of commands, beside the templates and appliances. */
async function collectStaging(run: GcRun): Promise<void> {
  const { paths } = run.context;
  const candidates = [paths.templates, paths.appliances, paths.policies].flatMap((family) =>
    namesIn(family)
      .filter((name) => STAGING.test(name))
      .map((name) => leftover(join(family, name), `${family.slice(paths.root.length + 1)}/${name}`)),
  );
  const aside = new Set(run.aside.values());
  const unused = () => {
    const isQuiet = !othersRun();
    return ({ path }: Garbage) => isQuiet && !aside.has(path);
  };
  await takeAway(run, candidates, unused);
}

/** Temporary files of writes that were interrupted: stratad writes them in one turn, so none can be seen while it lives. */
async function collectFiles(run: GcRun): Promise<void> {
  const { paths } = run.context;
  const breathe = breather();
  const found: Garbage[] = [];
  const look = (dir: string) => {
    for (const name of namesIn(dir)) {
      if (!name.startsWith('.tmp-')) continue;
      const path = join(dir, name);
      if (!statSync(path, { throwIfNoEntry: false })?.isDirectory())
        found.push(leftover(path, path.slice(paths.root.length + 1)));
    }
  };
  look(paths.machines);
  look(join(paths.root, 'journal'));
  look(join(paths.root, 'scan'));
  look(join(paths.root, 'scan', 'quarantine'));
  for (const family of [paths.templates, paths.appliances]) {
    for (const name of namesIn(family)) {
      if (!name.startsWith('.')) look(join(family, name));
      await breathe();
    }
  }
  await takeAway(run, found, () => () => true);
}

/** Flocks that are held until the leftovers they belong to are deleted. */
export type HeldLocks = number[];

async function collectInRepository(
  run: GcRun,
  repo: { name: string; unitsDir: string; isOwn: boolean },
  held: HeldLocks,
): Promise<void> {
  const found: Garbage[] = [];
  const aside = new Set(run.aside.values());
  for (const name of namesIn(repo.unitsDir)) {
    const path = join(repo.unitsDir, name);
    if (!name.startsWith('.') || aside.has(path)) continue;
    if (isDeadInRepository(name, path, repo.isOwn, held)) found.push(leftover(path, `${repo.name}: ${name}`));
  }
  await takeAway(run, found, () => () => true);
}

function isDeadInRepository(name: string, path: string, isOwn: boolean, held: HeldLocks): boolean {
  const staged = /^\.(tmp|trash|fetch)-(\d+)-[0-9a-f]{12}$/.exec(name);
  if (staged !== null) {
    const [, kind, pid] = staged;
    if (kind === 'tmp') return takeFlock(path, held);
    if (!isOwn && kind === 'fetch') return false;
    // Another host's process may be deleting it; deleting together does no harm.
    return isOwnerDead(Number(pid), path);
  }
  if (!/^\.tmp-[A-Za-z]+(?:\.json)?-\d+-\d+$/.test(name)) return false;
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat?.isFile() === true && Date.now() - stat.mtimeMs > FILE_AGE_MS;
}

function takeFlock(path: string, held: HeldLocks): boolean {
  const flags = sys.O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW | sys.O_CLOEXEC;
  const fd = sys.openat(sys.AT_FDCWD, nameFromText(path), flags);
  if (fd < 0) return false;
  if (sys.flock(fd, LOCK_EX_NB) < 0) {
    sys.close(fd);
    return false;
  }
  held.push(fd);
  return true;
}

export function releaseFlocks(held: HeldLocks): void {
  for (const fd of held.splice(0)) closeSync(fd);
}

/** Substitutes and grafts of appliances that are gone. Nothing goes while the policy of some appliance cannot be read. */
async function collectPolicyLayers(run: GcRun): Promise<void> {
  const { paths } = run.context;
  const dir = join(paths.policies, '.layers');
  const candidates = namesIn(dir).map(
    (id): Garbage => ({
      kind: 'leftovers',
      name: `policies/.layers/${id}`,
      path: join(dir, id),
      trashDir: paths.policies,
    }),
  );
  if (candidates.length === 0) return;
  await takeAway(run, candidates, () => {
    const used = policyLayersInUse(run.context);
    return ({ path }) => used !== null && !used.has(basename(path));
  });
}

/** Finds all leftovers. `held`: flocks to be released when they are deleted. */
export async function collectLeftovers(run: GcRun, held: HeldLocks): Promise<void> {
  const { root, repositories } = run.context;
  await collectStaging(run);
  await collectFiles(run);
  await collectPolicyLayers(run);
  const repos = join(root, 'repos');
  const trash = namesIn(repos)
    .filter((name) => {
      const pid = /^\.(?:tmp|trash)-.+-(\d+)-\d+$/.exec(name)?.[1];
      return pid !== undefined && isOwnerDead(Number(pid), join(repos, name));
    })
    .map((name) => leftover(join(repos, name), `repos/${name}`));
  await takeAway(run, trash, () => () => true);
  for (const { config, unitsDir } of repositories.all()) {
    const own = join(repos, config.name);
    await collectInRepository(run, { name: config.name, unitsDir, isOwn: unitsDir === own }, held);
    if (unitsDir !== own)
      await collectInRepository(run, { name: config.name, unitsDir: own, isOwn: true }, held);
  }
}
