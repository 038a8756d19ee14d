import type { Explanation } from './contract.ts';
import type { Targets } from './targets.ts';
import type { UnitIndex } from './unit-index.ts';
import type { UnitRelations } from './unit-relations.ts';
export function explainUnsatisfiable(_i: UnitIndex, _r: UnitRelations, t: Targets): Explanation {
  return { summary: `cannot add ${t.targets.map((x) => x.label)}`, chain: [], hint: '' };
}
