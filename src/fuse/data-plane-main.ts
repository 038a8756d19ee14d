/**
 * strata-fs, the data-plane process: `node data-plane-main.ts --root DIR`. One serves a state root, another one waits with everything loaded to
 * take its place (process/standby.ts). It serves mounts whether or not stratad lives, and ends when it is told to and serves nothing any more. Its
 * main thread only talks to stratad and makes and removes mounts; it never waits for a file operation of a mount. The threads are started
 * before the rest of the program is loaded: all load at the same time.
 */
import { chmodSync, mkdirSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { parseArgs } from 'node:util';
import { StrataError } from '../base/index.ts';
import { createLog } from './process/log.ts';
import { dataPlanePaths } from './process/paths.ts';
import { takePlace, whoIAm } from './process/place.ts';
import { protect } from './process/protect.ts';
import { comeForward, loadBehind, waitForTurn } from './process/standby.ts';
import { startThreads, type ThreadOptions, type Threads } from './process/threads.ts';
import { EXIT_BUSY } from './process/watch.ts';

const DEFAULT_SPIN_US = 50;

const { values } = parseArgs({
  options: {
    root: { type: 'string' },
    /** Tests serve another file system. */
    'vlfs-module': { type: 'string' },
    /** Microseconds that a serving thread looks for the next request before it sleeps; see bench/fuse-roundtrip.ts. */
    'spin-us': { type: 'string' },
    'most-nodes': { type: 'string' },
    /** The parent starts it again (process/watch.ts). */
    watched: { type: 'boolean', default: false },
    /** It is to wait for the end of the serving one. */
    standby: { type: 'boolean', default: false },
  },
});

if (values.root === undefined) {
  process.stderr.write('strata-fs: --root is missing\n');
  process.exit(2);
}

/** The command line of a standby of this process: its own, once marked. */
function standbyCommand(): string[] {
  const own = process.argv.slice(1).filter((argument) => argument !== '--standby');
  return [process.execPath, ...process.execArgv, ...own, '--standby'];
}

const started: Threads[] = [];

async function main(root: string): Promise<void> {
  const paths = dataPlanePaths(root);
  if (!values.standby) {
    mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
    chmodSync(paths.runDir, 0o700);
  }
  process.title = 'strata-fs';
  const log = createLog(paths.log);
  const self = whoIAm(values.watched);
  const place = takePlace(paths, self, values.standby);
  if (place.role === 'none') {
    if (values.standby) process.exit(EXIT_BUSY);
    throw new StrataError('BUSY', `another strata-fs serves ${root}`);
  }
  if (values.standby && place.role === 'server') comeForward();
  const loaded = place.role === 'standby' ? loadBehind(place.server) : () => {};
  protect(log);
  const threadOptions: ThreadOptions = {
    vlfsModule: values['vlfs-module'] ?? new URL('../vlfs/index.ts', import.meta.url).href,
    spinUs: values['spin-us'] === undefined ? DEFAULT_SPIN_US : Number(values['spin-us']),
    mostNodes: values['most-nodes'] === undefined ? undefined : Number(values['most-nodes']),
    quarantine: () => [],
    onGone: () => {},
    onLog: log,
    onDeath: (what) => {
      log(`${what} died; strata-fs ends and is started again`);
      process.kill(process.pid, 'SIGKILL');
    },
  };
  const home = startThreads(threadOptions);
  started.push(home);
  const [{ beginHolding }, { runDataPlane }] = await Promise.all([
    import('./process/holding.ts'),
    import('./process/run-data-plane.ts'),
  ]);
  let former = place.role === 'server' ? place.former : null;
  if (place.role === 'standby') {
    await home.loaded();
    loaded();
    flushCompileCache();
    former = await waitForTurn(paths, self, home, place.server);
    if (former === null) {
      // They sleep where an exit does not wake them.
      await home.stop();
      process.exit(0);
    }
  }
  await runDataPlane({
    root,
    home,
    threadOptions,
    standby: values.watched ? standbyCommand() : null,
    holding: beginHolding(root, paths, self, former),
    log,
  });
}

try {
  await main(values.root);
} catch (error) {
  await started[0]?.stop();
  process.stderr.write(`strata-fs: ${error instanceof Error ? error.message : error}\n`);
  process.exit(error instanceof StrataError && error.code === 'BUSY' ? EXIT_BUSY : 1);
}
