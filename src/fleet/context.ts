/** What every command of the fleet works with. One per state root. */
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Progress, StrataError, type UnitId } from '../base/index.ts';
import type { DataPlane } from '../fuse/contract.ts';
import type { Catalog } from './appliances/catalog.ts';
import type { Repositories } from './repositories.ts';
import type { Journal } from './state/journal.ts';
import type { Locks } from './state/locks.ts';
import type { FleetPaths } from './state/paths.ts';
import type { Definition } from './templates/generations.ts';

/** A template as memory holds it; the files are the truth. */
export interface TemplateState {
  definition: Definition;
  /** Why it could not follow the last update; null when it could. */
  heldBack: string | null;
}

export interface FleetContext {
  root: string;
  paths: FleetPaths;
  locks: Locks;
  journal: Journal;
  catalog: Catalog;
  repositories: Repositories;
  templates: Map<string, TemplateState>;
  /** Definitions of appliances with layers of their own, by appliance name. */
  ownDefinitions: Map<string, Definition>;
  /** Starts strata-fs when needed. */
  dataPlane(): Promise<DataPlane>;
  /** strata-fs when it may have mounts; null when there can be none, so that nothing is started for a mere question. */
  runningDataPlane(): Promise<DataPlane | null>;
  /** Begins work that nobody waits for; `target`: the appliance that it is about. */
  background(target: string, work: (progress: Progress) => Promise<void>): void;
  onStep(name: string): void;
}

/** The promise of `runningDataPlane`, remembered once it is there. */
export function dataPlaneAccess(
  root: string,
  start: () => Promise<DataPlane>,
): Pick<FleetContext, 'dataPlane' | 'runningDataPlane'> {
  let used = false;
  const dataPlane = () => {
    used = true;
    return start();
  };
  return {
    dataPlane,
    runningDataPlane: async () =>
      used || existsSync(join(root, 'run', 'strata-fs.sock')) ? dataPlane() : null,
  };
}

/** Throws NOT_FOUND with the names there are. */
export function templateState(context: FleetContext, name: string): TemplateState {
  const state = context.templates.get(name);
  if (state) return state;
  const known = [...context.templates.keys()].sort().slice(0, 10).join(', ');
  throw new StrataError('NOT_FOUND', `there is no template ${name}`, {
    hint: known === '' ? 'make one with: strata template create NAME LAYER...' : `templates here: ${known}`,
  });
}

/** A name for temporary files that no other command uses. */
export function operationId(): string {
  return randomBytes(6).toString('hex');
}

/** Units of all current stacks: of templates, and of appliances with layers of their own. */
export function unitsInUse(context: FleetContext): Set<UnitId> {
  const units = new Set<UnitId>();
  for (const { definition } of context.templates.values())
    for (const id of definition.record.units) units.add(id);
  for (const { record } of context.ownDefinitions.values()) for (const id of record.units) units.add(id);
  return units;
}
