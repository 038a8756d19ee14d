/** Changing what is said of an appliance's family: state.json by the journal, then the catalog. */
import type { CatalogRow } from '../appliances/catalog.ts';
import { catalogSteps } from '../clone/frozen-list.ts';
import type { FleetContext } from '../context.ts';
import type { JournalStep } from '../state/journal.ts';
import { stateStep } from './record.ts';

/**
 * Commits rows whose family or frozen layers are new, in one record, so that the catalog sees after a power cut that it is older. `before`: steps of the same command that
 * come first. Under the commit lock.
 */
export async function commitRows(
  context: FleetContext,
  op: string,
  rows: CatalogRow[],
  before: JournalStep[] = [],
): Promise<void> {
  const steps = [...before, ...rows.map((row) => stateStep(context.paths, row)), ...catalogSteps(context)];
  const id = await context.journal.commit(op, steps);
  try {
    context.catalog.put(rows);
    context.onStep('catalog');
  } finally {
    context.journal.finish(id);
  }
}
