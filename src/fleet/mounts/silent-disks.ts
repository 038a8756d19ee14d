/**
 * Appliances whose private parts stand on a file system of their own, mounted into the state root, that does not answer: nobody may wait for them but who asks for just
 * them. The kernel's list of mounts tells which may be meant without touching any disk.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { answersAside } from '../../vlfs/index.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import { latin1 } from '../merge-layers/untrusted-tree.ts';
import type { FleetPaths } from '../state/paths.ts';

/** How long a change of many appliances waits for a disk. */
export const SILENT_MS = 3000;

/** Names of appliances, of those given, with a mount below their directory. */
function onOwnDisks(paths: FleetPaths, names: readonly string[]): string[] {
  const above = `${latin1(paths.appliances)}/`;
  const mounted = new Set<string>();
  for (const line of readFileSync('/proc/self/mountinfo', 'latin1').split('\n')) {
    const at = (line.split(' ')[4] ?? '').replace(/\\([0-7]{3})/g, (_, octal: string) =>
      String.fromCharCode(Number.parseInt(octal, 8)),
    );
    if (at.startsWith(above)) mounted.add(at.slice(above.length).split('/')[0]!);
  }
  return mounted.size === 0 ? [] : names.filter((name) => mounted.has(name));
}

/** Which of the appliances stand on a disk that does not answer within SILENT_MS. */
export async function silentAppliances(paths: FleetPaths, names: readonly string[]): Promise<Set<string>> {
  const asked = onOwnDisks(paths, names);
  if (asked.length === 0) return new Set();
  const silent = new Set(asked);
  const answers = asked.map(async (name) => {
    const { privateDir, whiteoutsDir } = applianceDirs(paths, name);
    if (await answersAside([privateDir, whiteoutsDir])) silent.delete(name);
  });
  const limit = new AbortController();
  await Promise.race([Promise.all(answers), delay(SILENT_MS, undefined, { signal: limit.signal })]).finally(
    () => limit.abort(),
  );
  return silent;
}
