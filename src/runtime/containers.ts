/**
 * The containers of a state root that exist now: list, kill, and what a crash left behind. crun's state directory is the truth
 * for running containers, the bundle directories for what must be removed.
 */
import { execFile } from 'node:child_process';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { bundleDirOf, containersDir, crunFor, crunStateDir, removeBundle } from './bundle.ts';
import { ensureRuntimeTools } from './host.ts';

const run = promisify(execFile);
/** A bundle this young may belong to a run that is just starting. */
const STARTING_MS = 60_000;
const FORGET_TRIES = 50;
const FORGET_PAUSE_MS = 100;

export interface RunningContainer {
  id: string;
  /** Process id of the container's first process on the host; 0 when it has ended. */
  pid: number;
  status: 'created' | 'running' | 'stopped' | 'paused';
}

async function crun(root: string, args: string[]): Promise<string> {
  const argv = crunFor(await ensureRuntimeTools(), root, args);
  const { stdout } = await run(argv[0]!, argv.slice(1), { timeout: 30_000, maxBuffer: 64 << 20 });
  return stdout;
}

/** The containers that crun knows under this state root. */
export async function listContainers(root: string): Promise<RunningContainer[]> {
  const names = await readdir(crunStateDir(root)).catch(() => []);
  if (names.length === 0) return [];
  const found = JSON.parse((await crun(root, ['list', '--format=json'])) || '[]') as
    | RunningContainer[]
    | null;
  return (found ?? []).map(({ id, pid, status }) => ({ id, pid, status }));
}

/** Sends a signal to the container's first process; with SIGKILL everything in the container ends. A dead one is no error. */
export async function killContainer(
  root: string,
  id: string,
  signal: NodeJS.Signals = 'SIGTERM',
): Promise<void> {
  bundleDirOf(root, id);
  await crun(root, ['kill', id, signal.replace(/^SIG/, '')]).catch((error) => {
    if (!/does not exist|No such (file|process)|not running|cannot find/i.test(String(error.stderr ?? error)))
      throw error;
  });
}

/**
 * Makes crun forget an ended container and kills one that still runs. The crun that ran it may forget it at the same moment, and its processes may take a moment
 * to end: then it is tried again.
 */
export async function forgetContainer(root: string, id: string): Promise<void> {
  const state = join(crunStateDir(root), id);
  const isKnown = async (): Promise<boolean> => (await stat(state).catch(() => null)) !== null;
  for (let tries = 1; await isKnown(); tries++) {
    try {
      await crun(root, ['delete', '--force', id]);
      return;
    } catch (error) {
      if (tries === FORGET_TRIES && (await isKnown())) throw error;
    }
    await delay(FORGET_PAUSE_MS);
  }
}

/**
 * Removes bundles whose container has ended or never came to be (their owner was killed). Containers that still run are kept.
 * Returns the ids that were removed.
 */
export async function cleanupStale(root: string): Promise<string[]> {
  const names = (await readdir(containersDir(root)).catch(() => [])).filter((name) => !name.startsWith('.'));
  const known = new Map((await listContainers(root)).map((c) => [c.id, c]));
  const removed: string[] = [];
  for (const name of new Set([...names, ...known.keys()])) {
    const container = known.get(name);
    if (container !== undefined && container.status !== 'stopped') continue;
    if (container === undefined && (await isStarting(bundleDirOf(root, name)))) continue;
    if (container !== undefined) await forgetContainer(root, name);
    await removeBundle(root, name);
    removed.push(name);
  }
  return removed;
}

async function isStarting(bundleDir: string): Promise<boolean> {
  const found = await stat(bundleDir).catch(() => null);
  return found !== null && Date.now() - found.ctimeMs < STARTING_MS;
}
