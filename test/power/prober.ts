/**
 * Looks at disk images as power cuts leave them: mounts one (the kernel replays its journal), says by a digest of all files which state it is, and
 * on demand opens the state root on it. Runs in a mount namespace of its own, so that every image stands where the state root was made, and after
 * "another boot". Started as: unshare -m node prober.ts DIR ROOT BOOT_ID_FILE APPLIANCE...; speaks JSON lines.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { AT_FDCWD, listxattrAt } from '../../src/sys/index.ts';

const [dir, root, bootIdFile, ...apart] = process.argv.slice(2) as [string, string, string, ...string[]];
execFileSync('mount', ['--bind', bootIdFile, '/proc/sys/kernel/random/boot_id']);
// A copy of somebody else's mount in this namespace would keep it in use after its unmount.
for (const line of readFileSync('/proc/self/mounts', 'latin1').split('\n')) {
  const [, mountpoint, type] = line.split(' ');
  if (type?.startsWith('fuse')) execFileSync('umount', ['-l', mountpoint!.replaceAll('\\040', ' ')]);
}

/** Directories whose times tell the catalog and the databases whether they are fresh. */
const isTimed = (path: string) => path.endsWith('/appliances') || path === join(dir, 'units');

/** Of everything that decides what the next start finds. */
function digestOf(top: string): string {
  const digest = createHash('sha256');
  const pending = [top];
  for (let at = pending.pop(); at !== undefined; at = pending.pop()) {
    const stat = lstatSync(at, { bigint: true });
    digest.update(
      `${at} ${stat.mode} ${stat.isFile() ? stat.size : ''} ${isTimed(at) ? stat.mtimeNs : ''}\n`,
    );
    if (stat.isSymbolicLink()) digest.update(readlinkSync(at));
    if (stat.isFile() && !at.endsWith('-shm')) digest.update(readFileSync(at));
    if (!stat.isDirectory()) continue;
    const attributes = listxattrAt(AT_FDCWD, Buffer.from(at).toString('latin1'));
    if (typeof attributes !== 'number') digest.update(attributes);
    if (at === join(root, 'run')) continue;
    for (const name of readdirSync(at).sort()) pending.push(join(at, name));
  }
  return digest.digest('hex');
}

interface Request {
  do: 'mount' | 'check' | 'unmount';
  image?: string;
  /** Also collect garbage, and look again. */
  gc?: boolean;
}

function answer(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { do: what, image, gc } = JSON.parse(line) as Request;
  try {
    if (what === 'mount') {
      execFileSync('mount', ['-o', 'loop,nodiscard', '-t', 'ext4', image!, dir], { stdio: 'pipe' });
      answer({ digest: digestOf(dir) });
    } else if (what === 'check') {
      const file = join(import.meta.dirname, 'check-state.ts');
      const out = execFileSync(
        process.execPath,
        ['--disable-warning=ExperimentalWarning', file, root, gc ? 'gc' : '-', ...apart],
        {
          stdio: 'pipe',
          timeout: 300_000,
          maxBuffer: 64 << 20,
        },
      );
      answer({ found: JSON.parse(out.toString()) });
    } else {
      execFileSync('umount', [dir], { stdio: 'pipe' });
      answer({});
    }
  } catch (error) {
    const { stderr } = error as { stderr?: Buffer };
    answer({ error: `${what}: ${(error as Error).message}\n${stderr?.toString() ?? ''}` });
  }
}
