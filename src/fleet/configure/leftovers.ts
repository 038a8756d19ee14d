/**
 * What a stratad that was killed while it configured leaves behind: a container that still runs on a scratch file system nobody wants, its
 * bundle, and its work directory. One stratad serves a state root, so everything that this process did not begin is such a leftover.
 */
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { forgetContainer, killContainer, listContainers, removeBundle } from '../../runtime/index.ts';

export const CONTAINER_PREFIX = 'strata-configure-';
export const WORK_PREFIX = 'configure-';

/** Containers and work directories that this process uses now. */
export const inUse = new Set<string>();
const cleaned = new Set<string>();

/** Ends and removes the leftovers below a state root. Returns the number of containers that were ended. */
export async function cleanupConfigure(root: string): Promise<number> {
  const bundles = (await readdir(join(root, 'run/containers')).catch(() => [])).filter(
    isLeftover(CONTAINER_PREFIX),
  );
  const known = new Set(bundles.length === 0 ? [] : (await listContainers(root)).map((c) => c.id));
  for (const id of bundles) {
    if (known.has(id)) {
      await killContainer(root, id, 'SIGKILL');
      await forgetContainer(root, id);
    }
    await removeBundle(root, id);
  }
  const works = (await readdir(join(root, 'run')).catch(() => [])).filter(isLeftover(WORK_PREFIX));
  for (const name of works) await rm(join(root, 'run', name), { recursive: true, force: true });
  cleaned.add(root);
  return bundles.filter((id) => known.has(id)).length;
}

/** The same, once in the life of this process. */
export async function cleanupConfigureOnce(root: string): Promise<void> {
  if (!cleaned.has(root)) await cleanupConfigure(root);
}

function isLeftover(prefix: string): (name: string) => boolean {
  return (name) => name.startsWith(prefix) && !inUse.has(name);
}
