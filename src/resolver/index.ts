/**
 * The face of resolver/: from the metadata of all offered units, the best consistent set for a request, and
 * explanations. What "best" means: docs/formats/resolution.md. Pure: no file system, no network, no state but caches.
 */
import type { OfferedUnit, Universe } from './contract.ts';
import { resolveRequest } from './resolve.ts';
import { createUnitIndex, type UniverseOptions } from './unit-index.ts';
import { createUnitRelations } from './unit-relations.ts';
import { explainPresence } from './why.ts';

export * from './contract.ts';
export type { UniverseOptions } from './unit-index.ts';

/**
 * Indexes the units; well below a second for 63,000. The units must not change afterwards.
 * `resolve` throws StrataError LIMIT when a request is too hard or too large, and for nothing else.
 */
export function buildUniverse(units: readonly OfferedUnit[], options: UniverseOptions = {}): Universe {
  return joinUniverse([units], options);
}

/**
 * As buildUniverse, from several lists, usually one for each repository. A list that was given before (the same array) is not
 * indexed again, so after a change in one small repository this takes milliseconds.
 */
export function joinUniverse(
  lists: readonly (readonly OfferedUnit[])[],
  options: UniverseOptions = {},
): Universe {
  const index = createUnitIndex(lists, options);
  const relations = createUnitRelations(index);
  let size: number | undefined;
  return {
    get size() {
      if (size === undefined) {
        size = 0;
        for (const layer of index.layerNames()) size += index.ofLayer(layer).length;
      }
      return size;
    },
    resolve: (request) => resolveRequest(index, relations, request),
    versions: (layer, repo) =>
      index
        .ofLayer(layer)
        .map((id) => index.units[id]!)
        .filter((unit) => repo === undefined || unit.repo === repo),
    providers: (name) => index.providersOf(name).map((id) => index.units[id]!),
    why: (solution, layer) => explainPresence(index, relations, solution, layer),
  };
}
