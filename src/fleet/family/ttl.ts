/** How long appliances live: a time to live at their creation, changed later, and the deletion of those whose time is over. */
import { asStrataError, StrataError } from '../../base/index.ts';
import { applianceLock, applianceRow, deleteAppliances } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import type { FleetContext } from '../context.ts';
import type { Fleet } from '../contract.ts';
import { allMounts } from '../mounts/mount-list.ts';
import { unmountTarget } from '../mounts/mounts.ts';
import { endStaleRuns } from '../mounts/runs.ts';
import { COMMIT } from '../state/locks.ts';
import { commitRows } from './change.ts';

/** A hundred years. */
const MOST_SECONDS = 100 * 365.25 * 86_400;

/** When something that lives so long from now on ends; null: never. Throws USAGE. */
export function endOf(ttlSeconds: number | null | undefined): string | null {
  if (ttlSeconds === undefined || ttlSeconds === null) return null;
  if (!(ttlSeconds >= 1 && ttlSeconds <= MOST_SECONDS))
    throw new StrataError('USAGE', 'a time to live is at least a second and at most a hundred years');
  return new Date(Date.now() + ttlSeconds * 1000).toISOString();
}

export function setTtl(
  context: FleetContext,
  o: { name: string; ttlSeconds: number | null },
): ReturnType<Fleet['ttl']> {
  return context.locks.with([applianceLock(o.name), COMMIT], async () => {
    const row = applianceRow(context, o.name);
    const expires = endOf(o.ttlSeconds);
    await commitRows(context, 'ttl', [{ ...row, family: { ...row.family, expires } }]);
    return { name: row.name, expires };
  });
}

const hasEnded = (row: CatalogRow): boolean =>
  row.family.expires !== null && Date.parse(row.family.expires) <= Date.now();

/**
 * Deletes every appliance whose time is over. A mounted one is unmounted first; one that is in use stays, with the reason, until the next time.
 */
export async function expireAppliances(
  context: FleetContext,
  o: { dryRun?: boolean },
): ReturnType<Fleet['expire']> {
  const expired: string[] = [];
  const kept: { name: string; reason: string }[] = [];
  const now = new Date().toISOString();
  const ended = context.catalog.endedBy(now);
  if (ended.length > 0 && o.dryRun !== true) await endStaleRuns(context);
  for (const { name } of ended) {
    if (o.dryRun === true) {
      expired.push(name);
      continue;
    }
    try {
      const isMounted = (await allMounts(context)).some((mount) => mount.name === name);
      const row = context.catalog.get(name);
      if (row === null || !hasEnded(row)) continue;
      if (isMounted) await unmountTarget(context, { target: name });
      expired.push(...(await deleteAppliances(context, [name], { only: hasEnded })).deleted);
    } catch (error) {
      const { code, message } = asStrataError(error);
      if (code !== 'NOT_FOUND') kept.push({ name, reason: message });
    }
  }
  return { expired, kept, next: context.catalog.nextEnd(now) };
}
