/** The face of fleet/: the domain. LDFs, templates, appliances, updates, the catalog. */
import type { Fleet, FleetOptions } from './contract.ts';
import { openFleetWith } from './fleet.ts';

export * from './contract.ts';
export { parseLayerArgument } from './templates/layer-argument.ts';
export { createLdf, formatLdf, type Ldf, parseLdf } from './templates/ldf.ts';

/** Opens the state root `options.root` (and makes it when there is none). Recovers what a killed process left unfinished. */
export function openFleet(options: FleetOptions): Promise<Fleet> {
  return openFleetWith(options);
}
