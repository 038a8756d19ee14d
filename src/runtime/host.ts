/**
 * What this host offers to containers: the OCI runtime crun, and how its cgroups can be used. Found out by a trial once per
 * process, because no file says it reliably. It must not change the host, except to install the Debian package crun.
 *
 * crun refuses hybrid cgroup hosts (version 1 controllers and version 2 side by side), so there it runs in a mount
 * namespace of its own in which the version 2 hierarchy is covered; without usable cgroups it runs without them, and the
 * container then gets no CAP_MKNOD and a root file system mounted nodev, since device rules cannot be set.
 */
import { execFile } from 'node:child_process';
import { accessSync, constants, existsSync, lstatSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdir, mkdtemp, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { promisify } from 'node:util';
import { noProgress, type Progress, StrataError } from '../base/index.ts';
import { type CgroupMode, type HostFacts, ociConfig } from './oci-config.ts';

const run = promisify(execFile);
const UNIFIED = '/sys/fs/cgroup/unified';

export interface RuntimeTools extends HostFacts {
  /** Absolute path of crun. */
  crun: string;
  /** A directory that is covered by an empty file system while crun runs, because crun does not bear what is there; or null. */
  cover: string | null;
}

let found: Promise<RuntimeTools> | null = null;

/**
 * Finds the OCI runtime and how to use it here; installs the Debian package crun when it is missing and this process is
 * root. Remembered for the life of the process. Throws UNSUPPORTED with a hint.
 */
export function ensureRuntimeTools(progress: Progress = noProgress): Promise<RuntimeTools> {
  found ??= findTools(progress).catch((error) => {
    found = null;
    throw error;
  });
  return found;
}

async function findTools(progress: Progress): Promise<RuntimeTools> {
  if (process.getuid?.() !== 0) {
    throw new StrataError('DENIED', 'containers can only be started by root', {
      hint: 'run the command as root',
    });
  }
  const crun = executableInPath('crun') ?? (await installCrun(progress));
  const base = {
    crun,
    capabilityMask: BigInt(`0x${statusField('CapBnd') ?? '0'}`),
    openFilesLimit: openFilesLimit(),
  };
  const failures: string[] = [];
  for (const mode of candidateModes()) {
    const tools: RuntimeTools = { ...base, ...mode };
    const failure = await tryMode(tools);
    if (failure === null) return tools;
    failures.push(`${mode.cgroupMode}${mode.cover ? ` (${mode.cover} covered)` : ''}: ${failure}`);
  }
  throw new StrataError('UNSUPPORTED', `crun cannot start containers on this host: ${failures.join('; ')}`, {
    hint: 'Strata needs mount and pid namespaces; in a container, give it the privileges to make them',
  });
}

function candidateModes(): { cgroupMode: CgroupMode; cover: string | null }[] {
  const all = '/sys/fs/cgroup';
  if (existsSync(join(UNIFIED, 'cgroup.procs'))) {
    return [
      { cgroupMode: 'legacy', cover: UNIFIED },
      { cgroupMode: 'none', cover: UNIFIED },
    ];
  }
  const unified = existsSync(join(all, 'cgroup.controllers'));
  return [
    { cgroupMode: unified ? 'unified' : 'legacy', cover: null },
    { cgroupMode: 'none', cover: null },
    { cgroupMode: 'none', cover: all },
  ];
}

/**
 * The wrapper's mount namespace lives as long as the container. Where mounts do not propagate (a root that is private, as without systemd)
 * its copies of other appliances' mounts would keep those alive after they were unmounted; so it lets go of all but its own root.
 */
const DROP_OTHER_MOUNTS = `case "$0" in
*[[:space:]\\\\]*) ;;
*) sed -n 's/^[^ ]* \\([^ ]*\\) fuse[.]strata .*/\\1/p' /proc/self/mounts | while read -r point; do
  [ "$point" = "$0" ] || printf '%b\\0' "$point"
done | xargs -0 -r umount -lnc || : ;;
esac`;

/**
 * The command that runs crun with `args`, in a mount namespace of its own where this host or `rootfs` asks for it.
 * `stateDir` is crun's own directory.
 */
export function crunCommand(
  tools: RuntimeTools,
  stateDir: string,
  args: string[],
  rootfs?: string,
): string[] {
  const manager = tools.cgroupMode === 'none' ? 'disabled' : 'cgroupfs';
  const crun = [tools.crun, `--root=${stateDir}`, `--cgroup-manager=${manager}`, ...args];
  const script: string[] = [];
  if (tools.cover !== null) script.push(`mount -t tmpfs -o size=4k,mode=755 strata ${tools.cover}`);
  const nodev = tools.cgroupMode === 'none' && rootfs !== undefined;
  if (nodev) script.push('mount --bind "$0" "$0"', 'mount -o remount,bind,nodev "$0"');
  if (script.length === 0) return crun;
  script.push(DROP_OTHER_MOUNTS, 'exec "$@"');
  return [
    ...['unshare', '--mount', '--propagation', 'slave', '--', '/bin/sh', '-euc'],
    ...[script.join('\n'), rootfs ?? 'strata-runtime', ...crun],
  ];
}

/** Runs /usr/bin/true of the host in a container; null when that works, else the reason. */
async function tryMode(tools: RuntimeTools): Promise<string | null> {
  await mkdir('/run', { recursive: true });
  const dir = await mkdtemp('/run/strata-probe-');
  try {
    const rootfs = join(dir, 'rootfs');
    const mounts: { source: string; target: string }[] = [];
    for (const name of ['proc', 'sys', 'dev', 'usr']) await mkdir(join(rootfs, name), { recursive: true });
    for (const name of ['usr', 'bin', 'lib', 'lib32', 'lib64', 'libx32']) {
      const stat = lstatSync(`/${name}`, { throwIfNoEntry: false });
      if (stat?.isSymbolicLink()) await symlink(readlinkSync(`/${name}`), join(rootfs, name));
      else if (stat?.isDirectory()) mounts.push({ source: `/${name}`, target: `/${name}` });
    }
    const id = dir.slice('/run/'.length);
    const spec = {
      ...{ id, rootfs, hostname: 'probe', command: ['/usr/bin/true'], env: {}, cwd: '/' },
      ...{ network: 'none' as const, terminal: false, mounts },
    };
    await writeFile(join(dir, 'config.json'), JSON.stringify(ociConfig(spec, tools, [])));
    const argv = crunCommand(tools, join(dir, 'state'), ['run', `--bundle=${dir}`, id], rootfs);
    await run(argv[0]!, argv.slice(1), { timeout: 20_000, killSignal: 'SIGKILL' });
    return null;
  } catch (error) {
    const stderr = (error as { stderr?: string }).stderr?.trim();
    return stderr || (error as Error).message;
  } finally {
    await rm(dir, { recursive: true, force: true });
    // crun leaves the cgroup of a container that it could not start.
    await rmdir(`/sys/fs/cgroup/strata-${basename(dir)}`).catch(() => {});
  }
}

async function installCrun(progress: Progress): Promise<string> {
  const hint = 'install an OCI runtime: apt-get install crun';
  const aptGet = executableInPath('apt-get');
  if (aptGet === null)
    throw new StrataError('UNSUPPORTED', 'the container runtime crun is not installed', { hint });
  progress({ phase: 'install', message: 'installing the container runtime crun' });
  const args = ['-o', 'DPkg::Lock::Timeout=120', 'install', '-y', '--no-install-recommends', 'crun'];
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  try {
    await run(aptGet, args, { env, maxBuffer: 16 << 20 });
  } catch {
    try {
      await run(aptGet, ['update'], { env, maxBuffer: 16 << 20 });
      await run(aptGet, args, { env, maxBuffer: 16 << 20 });
    } catch (error) {
      throw new StrataError('UNSUPPORTED', 'the container runtime crun could not be installed', {
        hint,
        cause: error,
      });
    }
  }
  const path = executableInPath('crun');
  if (path === null) throw new StrataError('UNSUPPORTED', 'crun was installed but is not in PATH', { hint });
  return path;
}

/** The absolute path of a program, or null. The system's directories are searched too. */
export function executableInPath(name: string): string | null {
  const dirs = [
    ...(process.env['PATH'] ?? '').split(':'),
    '/usr/local/bin',
    '/usr/sbin',
    '/usr/bin',
    '/sbin',
    '/bin',
  ];
  for (const dir of dirs) {
    if (!dir.startsWith('/')) continue;
    const path = join(dir, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {}
  }
  return null;
}

function statusField(name: string): string | null {
  const match = new RegExp(`^${name}:\\s*(\\S+)`, 'm').exec(readFileSync('/proc/self/status', 'utf8'));
  return match?.[1] ?? null;
}

function openFilesLimit(): number {
  const match = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'));
  const limit = Number(match?.[1]);
  return Number.isSafeInteger(limit) && limit > 0 ? limit : 1_048_576;
}
