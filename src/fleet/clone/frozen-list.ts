/** Changing which frozen layers an appliance shows, when that changes nothing that one can see. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { StrataError } from '../../base/index.ts';
import type { DataPlane } from '../../fuse/contract.ts';
import type { ApplianceState } from '../appliances/appliances.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FleetContext, operationId } from '../context.ts';
import { readJsonIfThere } from '../state/files.ts';
import type { JournalStep } from '../state/journal.ts';
import { inState } from '../state/paths.ts';
import { applianceStack } from '../templates/follow.ts';
import type { FrozenId } from './frozen.ts';
import { dropUnusedFrozen } from './trash.ts';

/** The journal's step that gives an appliance this list. */
export function frozenListStep(
  context: FleetContext,
  row: CatalogRow,
  frozen: readonly FrozenId[],
): JournalStep {
  const path = join('appliances', row.name, 'state.json');
  const state = readJsonIfThere(join(context.root, path)) as ApplianceState | null;
  if (state === null) throw new StrataError('BAD_FORMAT', `appliance ${row.name} has no state.json`);
  const { frozen: _before, ...rest } = state;
  const text = `${JSON.stringify(frozen.length > 0 ? { ...rest, frozen } : rest)}\n`;
  return { do: 'write', path, text };
}

/**
 * What lets the catalog see after a power cut that it is older than the files, though no appliance came or went: the directory of appliances changes, durably.
 */
export function catalogSteps(context: FleetContext): JournalStep[] {
  const staged = join(context.paths.appliances, `.tmp-${operationId()}`);
  mkdirSync(staged, { mode: 0o700 });
  return [{ do: 'remove', path: inState(context.paths, staged) }];
}

/** Under the appliance's lock and the commit lock. `plane`: it serves the appliance. `more`: steps of the same command, which come first. */
export async function setFrozenList(
  context: FleetContext,
  row: CatalogRow,
  frozen: FrozenId[],
  o: { plane: DataPlane | null; more?: JournalStep[] },
): Promise<void> {
  const steps: JournalStep[] = [
    ...(o.more ?? []),
    frozenListStep(context, row, frozen),
    ...catalogSteps(context),
  ];
  const id = await context.journal.commit('frozen-layers', steps);
  try {
    const now = { ...row, frozen };
    context.catalog.put([now]);
    if (o.plane !== null) await o.plane.relayer([{ id: row.name, stack: applianceStack(context, now) }]);
    dropUnusedFrozen(context);
  } finally {
    context.journal.finish(id);
  }
}
