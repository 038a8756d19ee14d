/**
 * The start of the command `strata`. Start-up is felt at every command: compiled code is cached in a directory that only
 * its owner can write, and nothing is loaded that the command does not use.
 */
import { chmodSync, lstatSync, mkdirSync } from 'node:fs';
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** For root /var/cache/strata/node, else in the user's cache. Never a directory that others could have prepared. */
function cacheDir(): string | null {
  const uid = process.getuid?.() ?? -1;
  const base = uid === 0 ? '/var/cache' : (process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'));
  const dir = join(base, 'strata/node');
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    const { uid: owner, mode } = lstatSync(dir);
    if (owner !== uid) return null;
    if ((mode & 0o077) !== 0) chmodSync(dir, 0o700);
    return dir;
  } catch {
    return null;
  }
}

process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});
const cache = cacheDir();
if (cache !== null) enableCompileCache(cache);
const argv = process.argv.slice(2);
if (argv[0] === '__complete') {
  const { printCandidates } = await import('./completion/candidates.ts');
  await printCandidates(argv.slice(1));
} else {
  const { main } = await import('./program.ts');
  process.exitCode = await main(argv);
}
