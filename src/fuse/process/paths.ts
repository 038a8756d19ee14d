/** Where strata-fs keeps what it needs to be found: all in ROOT/run, which only root may enter. */
import { join } from 'node:path';

export interface DataPlanePaths {
  runDir: string;
  socket: string;
  /** Held while a strata-fs becomes the one of this root. */
  lock: string;
  /** Who serves, who holds its descriptors. */
  state: string;
  /** Who waits to take over. */
  standby: string;
  pid: string;
  log: string;
  /** One record a mountpoint: what to mount again after a crash. */
  mountsDir: string;
  /** The stacks that records refer to. */
  stacksDir: string;
  /** Node's cache of compiled modules. */
  compileCache: string;
}

export function dataPlanePaths(root: string): DataPlanePaths {
  const runDir = join(root, 'run');
  return {
    runDir,
    socket: join(runDir, 'strata-fs.sock'),
    lock: join(runDir, 'strata-fs.lock'),
    state: join(runDir, 'strata-fs.state'),
    standby: join(runDir, 'strata-fs.standby'),
    pid: join(runDir, 'strata-fs.pid'),
    log: join(runDir, 'strata-fs.log'),
    mountsDir: join(runDir, 'mounts'),
    stacksDir: join(runDir, 'stacks'),
    compileCache: join(runDir, 'compile-cache'),
  };
}
