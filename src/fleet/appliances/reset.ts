/** A fresh private layer for an appliance that is not mounted, as journal steps: prepared beside it, exchanged by renames. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type FleetContext, operationId } from '../context.ts';
import { syncFileSystem } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';

export function resetSteps(context: FleetContext, name: string): JournalStep[] {
  const operation = operationId();
  const fresh = join(context.paths.appliances, `.tmp-${operation}`);
  const trash = join('appliances', `.trash-${operation}`);
  for (const part of ['private', 'whiteouts']) mkdirSync(join(fresh, part), { recursive: true, mode: 0o755 });
  syncFileSystem(fresh);
  const exchange = ['private', 'whiteouts'].map(
    (part): JournalStep => ({
      do: 'replace',
      from: join('appliances', `.tmp-${operation}`, part),
      to: join('appliances', name, part),
      trash: `${trash}-${part}`,
    }),
  );
  const steps: JournalStep[] = [{ do: 'remove', path: join('appliances', name, 'work') }, ...exchange];
  for (const part of ['private', 'whiteouts']) steps.push({ do: 'remove', path: `${trash}-${part}` });
  steps.push({ do: 'remove', path: join('appliances', `.tmp-${operation}`) });
  return steps;
}
