/** Appliances and snapshots as something to look at: `NAME` is what an appliance shows now, `NAME@SNAPSHOT` what it wrote until then over what its template brings now. */
import { join } from 'node:path';
import type { StackSpec, VlfsSpec } from '../../vlfs/contract.ts';
import { emptyRoot, NEW_ROOT, rootFactsOf } from '../../vlfs/index.ts';
import type { CatalogRow } from '../appliances/catalog.ts';
import { type FrozenId, frozenDir, withFrozen } from '../clone/frozen.ts';
import type { FleetContext } from '../context.ts';
import { policedStack } from '../policy/record.ts';
import { stackOf } from '../templates/compose.ts';
import { applianceDefinition } from '../templates/follow.ts';

/** What an appliance shows with these frozen layers and nothing above them. Only to be looked at. */
export function viewSpec(context: FleetContext, row: CatalogRow, frozen: readonly FrozenId[]): VlfsSpec {
  const { paths } = context;
  const empty = join(paths.root, 'run', 'empty');
  const facts = frozen.length === 0 ? NEW_ROOT : rootFactsOf(join(frozenDir(paths, frozen[0]!), 'private'));
  const privateDir = emptyRoot(empty, facts);
  return {
    name: row.name,
    privateDir,
    whiteoutsDir: join(empty, 'whiteouts'),
    stack: stackWith(context, row, frozen),
    readOnly: true,
  };
}

/** The stack that an appliance would have with these frozen layers. */
export function stackWith(context: FleetContext, row: CatalogRow, frozen: readonly FrozenId[]): StackSpec {
  const { paths, repositories } = context;
  const layers = stackOf(paths, repositories, applianceDefinition(context, row).record);
  return policedStack(paths, row.name, withFrozen(paths, layers, frozen));
}
