/**
 * strata-fs, the data-plane process: `node data-plane-main.ts --root DIR`. One a state root (process/holding.ts). It
 * serves mounts whether or not stratad lives, and ends when it is told to and serves nothing any more. Its main thread only
 * talks to stratad and makes and removes mounts; it never waits for a file operation of a mount. The holder of its descriptors is made before
 * most of the program is loaded, because it keeps the memory of that moment.
 */
import { chmodSync, mkdirSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { StrataError } from '../base/index.ts';
import { beginHolding } from './process/holding.ts';
import { createLog } from './process/log.ts';
import { dataPlanePaths } from './process/paths.ts';
import { protect } from './process/protect.ts';
import { EXIT_BUSY } from './process/watch.ts';

const { values } = parseArgs({
  options: {
    root: { type: 'string' },
    /** Tests serve another file system. */
    'vlfs-module': { type: 'string' },
    'spin-us': { type: 'string' },
    'most-nodes': { type: 'string' },
    /** The parent starts it again (process/watch.ts). */
    watched: { type: 'boolean', default: false },
  },
});

if (values.root === undefined) {
  process.stderr.write('strata-fs: --root is missing\n');
  process.exit(2);
}

try {
  const paths = dataPlanePaths(values.root);
  mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
  chmodSync(paths.runDir, 0o700);
  process.title = 'strata-fs';
  const log = createLog(paths.log);
  protect(log);
  const holding = beginHolding(values.root, paths, values.watched);
  const { runDataPlane } = await import('./process/run-data-plane.ts');
  await runDataPlane({
    root: values.root,
    holding,
    log,
    vlfsModule: values['vlfs-module'] ?? new URL('../vlfs/index.ts', import.meta.url).href,
    mostNodes: values['most-nodes'] === undefined ? undefined : Number(values['most-nodes']),
    spinUs: values['spin-us'] === undefined ? undefined : Number(values['spin-us']),
  });
} catch (error) {
  process.stderr.write(`strata-fs: ${error instanceof Error ? error.message : error}\n`);
  process.exit(error instanceof StrataError && error.code === 'BUSY' ? EXIT_BUSY : 1);
}
