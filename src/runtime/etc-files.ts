/**
 * The files of /etc that a container sees in place of its own: resolv.conf (the host's), hosts and hostname. They are bind
 * mounted from the bundle, so the appliance's private layer is not touched. It must not follow a symbolic link of the appliance:
 * a target that is not a plain file in plain directories is left as it is.
 */
import { lstat, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { OciMount } from './oci-config.ts';

/** True when `path` (absolute, inside the root) is a regular file reached through directories only. */
export async function isPlainFile(rootfs: string, path: string): Promise<boolean> {
  let at = rootfs;
  const parts = path.split('/').filter(Boolean);
  for (const [i, part] of parts.entries()) {
    at = join(at, part);
    const stat = await lstat(at).catch(() => null);
    if (stat === null) return false;
    if (i < parts.length - 1 ? !stat.isDirectory() : !stat.isFile()) return false;
  }
  return parts.length > 0;
}

/** The text of /etc/hosts for a container. */
export function hostsText(hostname: string): string {
  return [
    '127.0.0.1\tlocalhost',
    `127.0.1.1\t${hostname}`,
    '::1\tlocalhost ip6-localhost ip6-loopback',
    'ff02::1\tip6-allnodes',
    'ff02::2\tip6-allrouters',
    '',
  ].join('\n');
}

/** Writes the files into `dir` and gives the mounts for those whose place exists in the root file system. */
export async function etcMounts(dir: string, rootfs: string, hostname: string): Promise<OciMount[]> {
  const files: Record<string, string> = {
    'resolv.conf': await readFile('/etc/resolv.conf', 'utf8').catch(() => ''),
    hosts: hostsText(hostname),
    hostname: `${hostname}\n`,
  };
  const mounts: OciMount[] = [];
  for (const [name, text] of Object.entries(files)) {
    const destination = `/etc/${name}`;
    if (!(await isPlainFile(rootfs, destination))) continue;
    const source = join(dir, name);
    await writeFile(source, text, { mode: 0o644 });
    mounts.push({ destination, type: 'bind', source, options: ['bind', 'rw', 'nosuid', 'nodev'] });
  }
  return mounts;
}
