/**
 * strata-fs, the data-plane process: `node data-plane-main.ts --root DIR`. One a state root (flock on ROOT/run/strata-fs.lock). It
 * serves mounts whether or not stratad lives, and ends when it is told to and serves nothing any more. Its main thread only
 * talks to stratad and makes and removes mounts; it never waits for a file operation of a mount.
 */
import { parseArgs } from 'node:util';
import { runDataPlane } from './process/run-data-plane.ts';

const { values } = parseArgs({
  options: {
    root: { type: 'string' },
    /** Tests serve another file system. */
    'vlfs-module': { type: 'string' },
    'spin-us': { type: 'string' },
    'most-nodes': { type: 'string' },
  },
});

if (values.root === undefined) {
  process.stderr.write('strata-fs: --root is missing\n');
  process.exit(2);
}

try {
  await runDataPlane({
    root: values.root,
    vlfsModule: values['vlfs-module'] ?? new URL('../vlfs/index.ts', import.meta.url).href,
    mostNodes: values['most-nodes'] === undefined ? undefined : Number(values['most-nodes']),
    spinUs: values['spin-us'] === undefined ? undefined : Number(values['spin-us']),
  });
} catch (error) {
  process.stderr.write(`strata-fs: ${error instanceof Error ? error.message : error}\n`);
  process.exit(1);
}
