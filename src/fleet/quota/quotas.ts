/**
 * Quotas of appliances: `quota.json` beside the private layer says how much it may take; strata-fs keeps to it and writes what it takes into `usage`. Here is who
 * sets them, counts what nobody has mounted, and asks.
 */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import {
  countAside,
  formatLimits,
  formatUsage,
  type QuotaLimits,
  quotaFile,
  readLimits,
  readUsage,
  replaceUsage,
  type Usage,
} from '../../vlfs/index.ts';
import { applianceLock, applianceRow } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { applianceDirs } from '../appliances/private-files.ts';
import type { FleetContext } from '../context.ts';
import type { QuotaInfo, QuotaOptions } from '../contract.ts';
import { allMounts } from '../mounts/mount-list.ts';
import { tellDataPlane } from '../scan/scan.ts';
import { isThere, replaceFile, syncDirectory, writeNewFile } from '../state/files.ts';
import { vlfsSpec } from '../templates/follow.ts';

const NONE: QuotaLimits = { bytes: null, inodes: null };

/** Writes what the options say into the directory of an appliance that is being made; `inherited`: the limits that it has otherwise. */
export function stageQuota(
  dir: string,
  options: QuotaOptions,
  inherited: QuotaLimits | null,
  sync: boolean,
): void {
  for (const [file, text] of quotaTexts(options, inherited, null)) writeNewFile(join(dir, file), text, sync);
}

/** The same as files and what they hold. `usage`: what it takes, if that is known. */
export function quotaTexts(
  options: QuotaOptions,
  inherited: QuotaLimits | null,
  usage: Usage | null,
): [string, string][] {
  const limits = changed(inherited ?? NONE, options);
  if (limits.bytes === null && limits.inodes === null) return [];
  const texts: [string, string][] = [['quota.json', formatLimits(limits)]];
  if (usage !== null) texts.push(['usage', formatUsage(usage)]);
  return texts;
}

/** A new appliance takes nothing, and that is known. */
export function stageUsage(dir: string, usage: Usage, sync: boolean): void {
  if (isThere(join(dir, 'quota.json'))) writeNewFile(join(dir, 'usage'), formatUsage(usage), sync);
}

function changed(limits: QuotaLimits, { quotaBytes, quotaInodes }: QuotaOptions): QuotaLimits {
  return { bytes: limitOf(quotaBytes, limits.bytes), inodes: limitOf(quotaInodes, limits.inodes) };
}

function limitOf(wanted: number | 'none' | undefined, now: number | null): number | null {
  if (wanted === undefined) return now;
  return wanted === 'none' ? null : wanted;
}

/** Sets, changes or takes away limits; a mounted appliance obeys at once. What it takes already may be more. */
export async function setQuota(
  context: FleetContext,
  { name, ...options }: { name: string } & QuotaOptions,
): Promise<QuotaInfo> {
  await context.locks.with([applianceLock(name)], async () => {
    const row = applianceRow(context, name);
    const { dir, privateDir } = applianceDirs(context.paths, name);
    const limits = changed(readLimits(privateDir) ?? NONE, options);
    const mount = (await allMounts(context)).find((one) => one.name === name);
    const limited = limits.bytes !== null || limits.inodes !== null;
    if (limited && mount?.door === 'sealed') {
      throw new StrataError('BUSY', `${name} is mounted at ${mount.dir} by the sealed door`, {
        hint: `the kernel serves it, and keeps to no quota; first: strata umount ${mount.dir}`,
      });
    }
    if (limited && mount === undefined) await countNow(context, row, privateDir);
    if (limited) replaceFile(quotaFile(privateDir), formatLimits(limits));
    else {
      rmSync(quotaFile(privateDir), { force: true });
      syncDirectory(dir);
    }
    context.onStep('quota');
    if (mount !== undefined) await tellDataPlane(context);
  });
  return quotaOf(context, name);
}

/** Counts what an appliance that is not mounted takes, unless that is known. */
async function countNow(context: FleetContext, row: CatalogRow, privateDir: string): Promise<Usage> {
  const known = readLimits(privateDir) === null ? null : readUsage(privateDir);
  if (known?.state === 'exact') return known;
  const usage = await countAside(vlfsSpec(context, row));
  replaceUsage(privateDir, usage);
  return usage;
}

/** The limits of an appliance and what it takes. */
export async function quotaOf(context: FleetContext, name: string): Promise<QuotaInfo> {
  const row = applianceRow(context, name);
  const { privateDir } = applianceDirs(context.paths, name);
  const limits = readLimits(privateDir);
  const isMounted = (await allMounts(context)).some((mount) => mount.name === name);
  const known = limits === null ? null : readUsage(privateDir);
  const isKnown = known?.state === 'exact' || (isMounted && known?.state === 'open');
  const usage = isKnown ? known : await countAside(vlfsSpec(context, row));
  return {
    name,
    quota_bytes: limits?.bytes ?? null,
    quota_inodes: limits?.inodes ?? null,
    used_bytes: usage.bytes,
    used_inodes: usage.inodes,
  };
}

/** Throws DENIED for an appliance with a quota: the sealed door has nobody who could keep to it. */
export function refuseQuota(privateDir: string, name: string): void {
  if (readLimits(privateDir) === null) return;
  throw new StrataError('DENIED', `appliance ${name} has a quota, which the sealed door cannot keep to`, {
    hint: `use the door fuse or --read-only, or: strata quota ${name} none --inodes none`,
  });
}
