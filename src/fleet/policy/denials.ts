/** What the policy of an appliance denied: appliances/NAME/denied.log (and denied.log.1, which it continues), put together by path. */
import { join } from 'node:path';
import type { Denial, Suppressed } from '../../vlfs/index.ts';
import { applianceRow } from '../appliances/appliances.ts';
import type { FleetContext } from '../context.ts';
import type { PolicyLog } from '../contract.ts';
import { readTextIfThere } from '../state/files.ts';
import type { FleetPaths } from '../state/paths.ts';

export function denialsFile(paths: FleetPaths, name: string): string {
  return join(paths.appliances, name, 'denied.log');
}

/** A line that a crash cut off is left out. */
function linesOf(file: string): (Denial | Suppressed)[] {
  return (readTextIfThere(file) ?? '').split('\n').flatMap((line) => {
    try {
      const value: unknown = JSON.parse(line);
      return typeof value === 'object' && value !== null ? [value as Denial | Suppressed] : [];
    } catch {
      return [];
    }
  });
}

export function policyLog(context: FleetContext, name: string): PolicyLog {
  applianceRow(context, name);
  const file = denialsFile(context.paths, name);
  let suppressed = 0;
  /** Each time that a path was counted from one again has an entry: its last line has the whole count. */
  const spells = new Map<string, Denial>();
  for (const line of [...linesOf(`${file}.1`), ...linesOf(file)]) {
    if ('suppressed' in line) suppressed += line.suppressed;
    else if (typeof line.path === 'string') spells.set(`${line.since}\0${line.path}`, line);
  }
  const byPath = new Map<string, PolicyLog['denials'][number]>();
  for (const { path, rule, count, since, time, uid, pid } of spells.values()) {
    const known = byPath.get(path);
    if (known === undefined) byPath.set(path, { path, rule, count, first: since, last: time, uid, pid });
    else Object.assign(known, { rule, count: known.count + count, last: time });
  }
  const denials = [...byPath.values()].sort((a, b) => (a.last < b.last ? 1 : a.last > b.last ? -1 : 0));
  return { denials, suppressed };
}
