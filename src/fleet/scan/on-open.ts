/** The check at open as a property of appliances: the file `on-open.json` beside the private layer, which strata-fs and the blocking pool read. */
import { rmSync } from 'node:fs';
import { StrataError } from '../../base/index.ts';
import { onOpenSettings, readOnOpen, testScanner, writeOnOpen } from '../../scan/index.ts';
import { onOpenFile } from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { allMounts } from '../mounts/mount-list.ts';
import { isThere, syncDirectory } from '../state/files.ts';
import { COMMIT } from '../state/locks.ts';
import { scannerConfig, tellDataPlane } from './scan.ts';

/** A scanner that hangs keeps an open waiting for so long. */
const OPEN_TIMEOUT_MS = 30_000;

/** Turns the check on (also: to another scanner) or off, for all named appliances. Throws when the scanner is not there. */
export async function setScanOnOpen(
  context: FleetContext,
  { names, on, ...options }: Parameters<Fleet['scanOnOpen']>[0],
): Promise<{ names: string[]; on: boolean }> {
  const unique = [...new Set(names)];
  const scanner = scannerConfig({ timeoutMs: OPEN_TIMEOUT_MS, ...options });
  if (on) await testScanner(scanner);
  await context.locks.with([...unique.map(applianceLock), COMMIT], async () => {
    for (const name of unique) applianceRow(context, name);
    if (on) await refuseMounts(context, unique);
    for (const name of unique) {
      const { dir, privateDir } = applianceDirs(context.paths, name);
      const file = onOpenFile(privateDir);
      if (on) writeOnOpen(file, onOpenSettings(context.root, scanner));
      else {
        rmSync(file, { force: true });
        syncDirectory(dir);
      }
      context.onStep('scan on open');
    }
    await tellDataPlane(context);
  });
  return { names: unique, on };
}

/** The kernel opens files without asking behind the sealed door, and where a mount was made with the exact cache mode before it had to ask. */
async function refuseMounts(context: FleetContext, names: string[]): Promise<void> {
  const mounts = (await allMounts(context)).filter(({ name }) => names.includes(name));
  const exact = mounts.find(({ cache }) => cache === 'exact');
  if (exact !== undefined)
    throw new StrataError('BUSY', `${exact.name} is mounted at ${exact.dir} with --cache exact`, {
      hint: `its files are opened without asking; first: strata umount ${exact.name}, and mount it again afterwards`,
    });
  const sealed = mounts.find(({ door }) => door === 'sealed');
  if (sealed === undefined) return;
  throw new StrataError('BUSY', `${sealed.name} is mounted at ${sealed.dir} by the sealed door`, {
    hint: `the kernel serves it, and asks no scanner; first: strata umount ${sealed.dir}`,
  });
}

/** Throws DENIED for an appliance whose contents are judged at open: the sealed door has nobody who could ask. */
export function refuseOnOpen(privateDir: string, name: string): void {
  if (!isThere(onOpenFile(privateDir))) return;
  throw new StrataError('DENIED', `appliance ${name} is scanned on open, which the sealed door cannot do`, {
    hint: `use the door fuse, or: strata scan ${name} --on-open off`,
  });
}

/** Appliances that are checked at open, with their scanners. */
export function listOnOpen(context: FleetContext): { name: string; scanner: string }[] {
  return context.catalog.all().flatMap(({ name }) => {
    const file = onOpenFile(applianceDirs(context.paths, name).privateDir);
    if (!isThere(file)) return [];
    return [{ name, scanner: readOnOpen(file)?.scanner.kind ?? 'unknown' }];
  });
}
