/**
 * One stratad a state root: the lock ROOT/run/stratad.lock is held by flock for the life of the process, so it goes
 * with the process however that ends. Only the holder touches the socket and the pid file, therefore what lies there when the lock
 * has been taken is stale and is removed.
 */
import {
  chmodSync,
  closeSync,
  existsSync,
  lstatSync,
  mkdirSync,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { StrataError } from '../base/index.ts';
import { flock } from '../sys/index.ts';
import { type DaemonPaths, daemonPaths } from './contract.ts';

const LOCK_EX = 2;
const LOCK_NB = 4;

export interface Instance {
  paths: DaemonPaths;
  /** Removes pid file and socket, then gives up the lock. */
  release(): void;
}

/** Whose these directories are chooses what stratad, which is root, reads, writes and starts. */
function refuseForeign(dir: string): void {
  const stat = lstatSync(dir);
  if (stat.isDirectory() && stat.uid === process.geteuid!()) return;
  throw new StrataError('DENIED', `${dir} is not a directory of root`, {
    hint: 'the state root, and run in it, must be directories that belong to root',
  });
}

/** Becomes the daemon of `root`. Throws BUSY when there is one already, DENIED when the root is somebody else's. */
export function acquireInstance(root: string): Instance {
  const paths = daemonPaths(root);
  if (existsSync(root)) refuseForeign(realpathSync(root));
  mkdirSync(paths.runDir, { recursive: true, mode: 0o700 });
  refuseForeign(paths.runDir);
  chmodSync(paths.runDir, 0o700);
  const fd = openSync(paths.lock, 'a', 0o600);
  if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
    closeSync(fd);
    throw new StrataError('BUSY', `another stratad serves ${root}`, {
      hint: '`strata daemon restart` replaces it',
    });
  }
  rmSync(paths.socket, { force: true });
  const temporary = `${paths.pid}.tmp`;
  writeFileSync(temporary, `${process.pid}\n`, { mode: 0o600 });
  renameSync(temporary, paths.pid);
  return {
    paths,
    release: () => {
      rmSync(paths.socket, { force: true });
      rmSync(paths.pid, { force: true });
      closeSync(fd);
    },
  };
}
