/**
 * OCI bundles on disk: ROOT/run/containers/ID/{config.json, etc/, runtime.log}; crun's own state is in ROOT/run/containers/.state.
 * A bundle belongs to one run and is removed after it (removeBundle) or, when its owner died, by cleanupStale.
 */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { StrataError } from '../base/index.ts';
import type { ContainerSpec } from './contract.ts';
import { etcMounts } from './etc-files.ts';
import { crunCommand, ensureRuntimeTools, type RuntimeTools } from './host.ts';
import { ociConfig } from './oci-config.ts';

const ID = /^[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}$/;

export interface Bundle {
  /** Runs the container with the caller's standard streams; see execInteractive. */
  argv: string[];
  bundleDir: string;
}

/** Where the bundles of a state root are. */
export function containersDir(root: string): string {
  return resolve(root, 'run/containers');
}

/** crun's own state directory of a state root. */
export function crunStateDir(root: string): string {
  return join(containersDir(root), '.state');
}

/** The bundle directory of a container; throws BAD_NAME when the id could leave it. */
export function bundleDirOf(root: string, id: string): string {
  if (!ID.test(id)) throw new StrataError('BAD_NAME', `${JSON.stringify(id)} is not a valid container id`);
  return join(containersDir(root), id);
}

/** The command for crun with this state root, e.g. ['kill', id, 'KILL']. */
export function crunFor(tools: RuntimeTools, root: string, args: string[]): string[] {
  return crunCommand(tools, crunStateDir(root), args);
}

/**
 * Writes the bundle of a container and gives the command that runs it in the foreground. Throws BUSY when a container of this
 * id exists, USAGE for a spec that cannot be run.
 */
export async function prepareBundle(root: string, spec: ContainerSpec): Promise<Bundle> {
  checkSpec(spec);
  const tools = await ensureRuntimeTools();
  const bundleDir = bundleDirOf(root, spec.id);
  await mkdir(crunStateDir(root), { recursive: true, mode: 0o700 });
  await mkdir(bundleDir, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
    throw new StrataError('BUSY', `the container ${spec.id} exists already`);
  });
  try {
    const etc = join(bundleDir, 'etc');
    await mkdir(etc, { mode: 0o755 });
    const rootfs = resolve(spec.rootfs);
    const mounts = await etcMounts(etc, rootfs, spec.hostname);
    const config = ociConfig({ ...spec, rootfs }, tools, mounts);
    await writeFile(join(bundleDir, 'config.json'), JSON.stringify(config), { mode: 0o600 });
    const args = [`--log=file:${join(bundleDir, LOG_NAME)}`, 'run', `--bundle=${bundleDir}`, spec.id];
    return { argv: crunCommand(tools, crunStateDir(root), args, rootfs), bundleDir };
  } catch (error) {
    await rm(bundleDir, { recursive: true, force: true });
    throw error;
  }
}

/** crun writes here why it could not start a container. */
export const LOG_NAME = 'runtime.log';

/** Removes what prepareBundle made. The container must have ended. */
export async function removeBundle(root: string, id: string): Promise<void> {
  await rm(bundleDirOf(root, id), { recursive: true, force: true });
}

function checkSpec(spec: ContainerSpec): void {
  const refuse = (what: string) => {
    throw new StrataError('USAGE', `cannot start a container: ${what}`);
  };
  if (spec.command.length === 0 || spec.command[0] === '') refuse('no command was given');
  if (!spec.cwd.startsWith('/')) refuse(`the working directory ${JSON.stringify(spec.cwd)} is not absolute`);
  if (spec.hostname.length === 0 || spec.hostname.length > 64 || /[\s/\0]/.test(spec.hostname))
    refuse(`${JSON.stringify(spec.hostname)} is not a host name of at most 64 characters`);
  for (const text of [...spec.command, ...Object.entries(spec.env).flat(), spec.cwd])
    if (text.includes('\0')) refuse('arguments and environment must not contain NUL');
  for (const name of Object.keys(spec.env))
    if (name === '' || name.includes('=')) refuse(`bad variable ${name}`);
  for (const m of spec.mounts ?? [])
    if (!m.source.startsWith('/') || !m.target.startsWith('/')) refuse('mounts need absolute paths');
}
